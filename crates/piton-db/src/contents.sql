-- Whatever initdb did not make: its own objects have numbers below 16384.
-- An object that belongs to another one is told by that: a row type, an index, a constraint, an extension's function.
with own (what) as (
  select 'schema ' || quote_ident(nspname) from pg_catalog.pg_namespace
  where oid >= 16384 and nspname !~ '^pg_(toast_)?temp_'
  union all
  select case c.relkind
           when 'S' then 'sequence ' when 'v' then 'view ' when 'm' then 'materialized view '
           when 'f' then 'foreign table ' when 'c' then 'type ' else 'table '
         end || format('%I.%I', n.nspname, c.relname)
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.oid >= 16384 and c.relkind not in ('i', 'I', 't') and c.relpersistence <> 't'
  union all
  select 'function ' || format('%I.%I', n.nspname, p.proname)
  from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where p.oid >= 16384
  union all
  select 'type ' || format('%I.%I', n.nspname, t.typname)
  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
  where t.oid >= 16384 and t.typrelid = 0 and t.typelem = 0 and n.nspname !~ '^pg_'
  union all
  select 'large object ' || oid from pg_catalog.pg_largeobject_metadata
  union all
  select 'extension ' || quote_ident(extname) from pg_catalog.pg_extension
  where oid >= 16384 and extname <> 'plpgsql'
  union all
  select 'foreign data wrapper ' || quote_ident(fdwname) from pg_catalog.pg_foreign_data_wrapper where oid >= 16384
  union all
  select 'server ' || quote_ident(srvname) from pg_catalog.pg_foreign_server where oid >= 16384
  union all
  select 'language ' || quote_ident(lanname) from pg_catalog.pg_language where oid >= 16384 and lanname <> 'plpgsql'
  union all
  select 'event trigger ' || quote_ident(evtname) from pg_catalog.pg_event_trigger where oid >= 16384
  union all
  select 'publication ' || quote_ident(pubname) from pg_catalog.pg_publication where oid >= 16384
  union all
  select 'subscription ' || quote_ident(subname) from pg_catalog.pg_subscription
  where subdbid = (select oid from pg_catalog.pg_database where datname = current_database())
  union all
  select 'operator ' || oprname from pg_catalog.pg_operator where oid >= 16384
  union all
  select 'operator class ' || quote_ident(opcname) from pg_catalog.pg_opclass where oid >= 16384
  union all
  select 'cast ' || format('%s as %s', format_type(castsource, null), format_type(casttarget, null))
  from pg_catalog.pg_cast where oid >= 16384
  union all
  select 'collation ' || quote_ident(collname) from pg_catalog.pg_collation where oid >= 16384
  union all
  select 'conversion ' || quote_ident(conname) from pg_catalog.pg_conversion where oid >= 16384
  union all
  select 'text search configuration ' || quote_ident(cfgname) from pg_catalog.pg_ts_config where oid >= 16384
  union all
  select 'text search dictionary ' || quote_ident(dictname) from pg_catalog.pg_ts_dict where oid >= 16384
  union all
  select 'default privileges of ' || pg_catalog.pg_get_userbyid(defaclrole) from pg_catalog.pg_default_acl
)
select what from own order by split_part(what, ' ', 1) <> 'table', what
