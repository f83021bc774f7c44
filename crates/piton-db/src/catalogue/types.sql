-- Types and domains. Composite types stand with the relations.
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
