-- What ties the database to other servers: foreign data, publications and subscriptions.
select format('foreign-data wrapper %I', fdwname),
       concat_ws(' ', fdwhandler::regprocedure, fdwvalidator::regprocedure,
         (select 'with ' || string_agg(o, ', ' order by o collate "C") from unnest(fdwoptions) o))
from wrapper
union all
select format('foreign server %I', s.srvname),
       concat_ws(' ', s.srvtype, s.srvversion, w.fdwname,
         (select 'with ' || string_agg(o, ', ' order by o collate "C") from unnest(s.srvoptions) o))
from server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw
union all
-- Passwords stand in the options. Whoever may not read them gets a null from this view, and so does pg_dump, which then writes a
-- log-in without any. Their names can be read by whoever may use the server, without which no log-in can be restored.
select format('user mapping for %s at %I', coalesce(quote_ident(nullif(u.usename, 'public')), 'public'), u.srvname),
       coalesce(
         (select string_agg(split_part(o, '=', 1) || '=' || encode(sha256(convert_to(o, 'UTF8')), 'hex'), ', ' order by o collate "C")
          from unnest(u.umoptions) o),
         (select string_agg(o.option_name || '=…', ', ' order by o.option_name::text collate "C")
          from information_schema.user_mapping_options o
          where o.foreign_server_name = u.srvname
            and o.authorization_identifier = coalesce(nullif(u.usename, 'public'), 'PUBLIC')))
from pg_user_mappings u
union all
select format('publication %I', p.pubname),
       concat_ws(' ', case when p.puballtables then 'all tables' end,
         case when p.pubinsert then 'insert' end, case when p.pubupdate then 'update' end,
         case when p.pubdelete then 'delete' end, case when p.pubtruncate then 'truncate' end,
         case when p.pubviaroot then 'via the partitioned table' end,
         'generated columns ' || nullif(to_jsonb(p) ->> 'pubgencols', 'n'),
         (select string_agg(text, ', ' order by text collate "C") from (
            select concat(r.prrelid::regclass,
                     (select ' (' || string_agg(quote_ident(a.attname), ', ' order by a.attname) || ')'
                      from pg_attribute a where a.attrelid = r.prrelid and a.attnum = any (r.prattrs::int2[])),
                     ' where ' || pg_get_expr(r.prqual, r.prrelid)) as text
            from pg_publication_rel r where r.prpubid = p.oid) _),
         (select 'schemas ' || string_agg(s.pnnspid::regnamespace::text, ', ' order by s.pnnspid::regnamespace::text collate "C")
          from pg_publication_namespace s where s.pnpubid = p.oid))
from pg_publication p
union all
-- Its connection, which holds a password and which only a superuser may read, is read apart. A column that this server's version
-- lacks is found in `absent`, the outer query, instead.
select format('subscription %I', s.subname),
       concat_ws(' ', 'to', (select string_agg(quote_ident(p), ', ' order by p collate "C") from unnest(s.subpublications) p),
         'slot ' || quote_ident(s.subslotname), 'commit', s.subsynccommit,
         case when s.subbinary then 'binary' end,
         case when s.subtwophasestate <> 'd' then 'two-phase' end,
         case when s.subdisableonerr then 'disabled on error' end,
         (select concat_ws(' ', 'streaming ' || substream::text, 'origin ' || suborigin::text,
                   'password required ' || subpasswordrequired::text, 'run as owner ' || subrunasowner::text,
                   'failover ' || subfailover::text)
          from pg_subscription o where o.oid = s.oid))
from (select oid, subname, subpublications, subslotname, subsynccommit, subbinary, subtwophasestate, subdisableonerr
      from pg_subscription
      where subdbid = (select d.oid from pg_database d where d.datname = current_database())) s,
     (values (null, null, null, null)) absent (suborigin, subpasswordrequired, subrunasowner, subfailover)
