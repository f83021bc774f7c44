-- Types, domains, collations and text search. Composite types stand with the relations.
select 'type ' || typ.name,
       'enum of ' || (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder)
                      from pg_enum e where e.enumtypid = typ.oid)
from typ where typtype = 'e'
union all
select 'domain ' || name,
       concat_ws(' ', format_type(typbasetype, typtypmod), case when typnotnull then 'not null' end,
         'default ' || pg_get_expr(typdefaultbin, 0),
         case when typcollation <> 0 then 'collate ' || typcollation::regcollation::text end)
from typ where typtype = 'd'
union all
select format('constraint %s.%I', typ.name, c.conname), pg_get_constraintdef(c.oid)
from pg_constraint c join typ on typ.oid = c.contypid
-- 17 and newer list NOT NULL as a constraint too; it stands with the domain.
where c.contype <> 'n'
union all
select 'type ' || typ.name,
       concat_ws(' ', 'range of', format_type(r.rngsubtype, null),
         (select format('%s.%I', o.opcnamespace::regnamespace, o.opcname) from pg_opclass o where o.oid = r.rngsubopc),
         case when r.rngcollation <> 0 then 'collate ' || r.rngcollation::regcollation::text end,
         r.rngcanonical::regprocedure, r.rngsubdiff::regprocedure,
         'multirange', format_type(r.rngmultitypid, null))
from typ join pg_range r on r.rngtypid = typ.oid
union all
-- Base types, and shells, which have a name and nothing yet.
select 'type ' || name,
       case when typisdefined then concat_ws(' ',
         'length', typlen, 'by value', typbyval, 'align', typalign, 'storage', typstorage, 'category', typcategory,
         'preferred', typispreferred, 'delimiter', typdelim, 'element', nullif(format_type(nullif(typelem, 0), null), ''),
         'collatable', typcollation <> 0, 'default ' || typdefault, typinput::regprocedure, typoutput::regprocedure,
         typreceive::regprocedure, typsend::regprocedure, typmodin::regprocedure, typmodout::regprocedure,
         typanalyze::regprocedure, typsubscript::regprocedure)
       else 'shell' end
from typ where typtype in ('b', 'p')
union all
select 'collation ' || name,
       concat_ws(' ', collprovider, collisdeterministic, collencoding, collcollate, collctype,
         'locale ' || coalesce(j ->> 'colliculocale', j ->> 'colllocale'), 'rules ' || (j ->> 'collicurules'))
from coll
union all
select 'text search configuration ' || config.name,
       concat_ws(' ', 'parser', format('%s.%I', p.prsnamespace::regnamespace, p.prsname),
         (select string_agg(format('%s with %s', k.alias, k.dicts), '; ' order by k.alias collate "C")
          from (select t.alias, string_agg(m.mapdict::regdictionary::text, ', ' order by m.mapseqno) as dicts
                from pg_ts_config_map m join ts_token_type(config.cfgparser) t on t.tokid = m.maptokentype
                where m.mapcfg = config.oid group by t.alias) k))
from config join pg_ts_parser p on p.oid = config.cfgparser
union all
select 'text search dictionary ' || dict.name,
       concat_ws(' ', 'template', format('%s.%I', t.tmplnamespace::regnamespace, t.tmplname), dict.dictinitoption)
from dict join pg_ts_template t on t.oid = dict.dicttemplate
union all
select format('text search parser %I.%I', n.nspname, p.prsname),
       concat_ws(' ', p.prsstart::regprocedure, p.prstoken::regprocedure, p.prsend::regprocedure,
         p.prsheadline::regprocedure, p.prslextype::regprocedure)
from pg_ts_parser p join ns n on n.oid = p.prsnamespace
where not exists (select from member m where m.classid = 'pg_ts_parser'::regclass and m.objid = p.oid)
union all
select format('text search template %I.%I', n.nspname, t.tmplname),
       concat_ws(' ', t.tmplinit::regprocedure, t.tmpllexize::regprocedure)
from pg_ts_template t join ns n on n.oid = t.tmplnamespace
where not exists (select from member m where m.classid = 'pg_ts_template'::regclass and m.objid = t.oid)
