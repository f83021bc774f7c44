-- What belongs to extensions, and what stands on their tables: no dump holds it. In three columns: the extension, the object as
-- the listing has it, and its definition. It runs where a backup is taken or proved, and not with each listing. Whatever its oid:
-- plpgsql's members have small ones where it is template0's, as in each copy, and others where it was made anew.
with
belongs as (
    select quote_ident(e.extname) as extension, e.oid as of, d.classid, d.objid
    from pg_depend d join pg_extension e on e.oid = d.refobjid
    where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
),
rel as (
    select b.extension, c.*, format('%I.%I', n.nspname, c.relname) as name
    from belongs b join pg_class c on b.classid = 'pg_class'::regclass and c.oid = b.objid
    join pg_namespace n on n.oid = c.relnamespace
    where c.relpersistence <> 't'
)
select b.extension, o.type || ' ' || o.identity, '' from belongs b, pg_identify_object(b.classid, b.objid, 0) o
union all
select rel.extension, format('column %s.%I', rel.name, a.attname),
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
         case when a.attgenerated <> '' then 'generated as ' else 'default ' end || pg_get_expr(d.adbin, d.adrelid))
from rel join pg_attribute a on a.attrelid = rel.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where rel.relkind in ('r', 'p', 'f')
union all
-- NOT NULL, which 18 and newer list too, stands with the column.
select rel.extension, format('constraint %s.%I', rel.name, c.conname), pg_get_constraintdef(c.oid)
from rel join pg_constraint c on c.conrelid = rel.oid where c.contype not in ('n', 't')
union all
select rel.extension, format('index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
from rel join pg_index i on i.indrelid = rel.oid
union all
select rel.extension, format('trigger %s.%I', rel.name, t.tgname), pg_get_triggerdef(t.oid) || ' enabled ' || t.tgenabled::text
from rel join pg_trigger t on t.tgrelid = rel.oid where not t.tgisinternal
union all
select rel.extension, format('rule %s.%I', rel.name, r.rulename), pg_get_ruledef(r.oid)
from rel join pg_rewrite r on r.ev_class = rel.oid where r.rulename <> '_RETURN'
union all
select b.extension, format('comment on %s %s', o.type, o.identity), d.description
from belongs b join pg_description d on d.classoid = b.classid and d.objoid = b.objid,
     pg_identify_object(d.classoid, d.objoid, d.objsubid) o
