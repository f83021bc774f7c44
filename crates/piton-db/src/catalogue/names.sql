-- The canonical listing of a database's objects: each by name with its definition, in two columns, key and definition.
--
-- The files of this folder are one statement, joined by `union all`. It runs with search_path = '', so that every name in a
-- definition comes out qualified; never an oid, which differ between equal databases. What a server of another version
-- calls otherwise, or does not have, is read through to_jsonb(row), where a missing column is a null. Lists are sorted with
-- collate "C", for databases of another collation.
--
-- Not listed, because a dump and its restore rightly change it: whether a subscription is enabled (a restored one never is),
-- and the version of the library behind a collation. Large objects are an app's data and are compared as such.
with
-- What an extension brought comes back with the extension and not with the dump.
member as (
    select classid, objid from pg_depend where deptype = 'e'
),
ns as (
    select oid, nspname, nspowner, nspacl from pg_namespace
    where nspname <> 'information_schema' and nspname !~ '^pg_'
),
rel as (
    select c.*, format('%I.%I', n.nspname, c.relname) as name
    from pg_class c join ns n on n.oid = c.relnamespace left join pg_index i on i.indexrelid = c.oid
    where c.relpersistence <> 't'
      -- An index goes with its table.
      and not exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = coalesce(i.indrelid, c.oid))
      and not exists (select from member m where m.classid = 'pg_type'::regclass and m.objid = c.reltype)
),
proc as (
    select p.*, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as name
    from pg_proc p join ns n on n.oid = p.pronamespace
    where not exists (select from member m where m.classid = 'pg_proc'::regclass and m.objid = p.oid)
      -- A range type's own: after a restore they belong to whoever restored.
      and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'i')
),
-- Types that people make; those of tables, of arrays and of multiranges come along with what they belong to.
typ as (
    select t.*, format('%I.%I', n.nspname, t.typname) as name,
           case t.typtype when 'd' then 'domain ' when 'c' then 'composite type ' else 'type ' end as kind
    from pg_type t join ns n on n.oid = t.typnamespace left join pg_class c on c.oid = t.typrelid
    where (c.oid is null or c.relkind = 'c') and t.typtype <> 'm'
      and not exists (select from pg_type e where e.oid = t.typelem and e.typarray = t.oid)
      and not exists (select from member m where m.classid = 'pg_type'::regclass and m.objid = t.oid)
),
operator as (
    select o.*, format('%I.%s(%s, %s)', n.nspname, o.oprname, format_type(o.oprleft, null), format_type(o.oprright, null))
      as name
    from pg_operator o join ns n on n.oid = o.oprnamespace
    -- Without a function it is only what another operator names as its commutator or negator.
    where o.oprcode <> 0
      and not exists (select from member m where m.classid = 'pg_operator'::regclass and m.objid = o.oid)
),
family as (
    select f.*, format('%I.%I using %I', n.nspname, f.opfname, a.amname) as name
    from pg_opfamily f join ns n on n.oid = f.opfnamespace join pg_am a on a.oid = f.opfmethod
    where not exists (select from member m where m.classid = 'pg_opfamily'::regclass and m.objid = f.oid)
),
class as (
    select c.*, format('%I.%I using %I', n.nspname, c.opcname, a.amname) as name
    from pg_opclass c join ns n on n.oid = c.opcnamespace join pg_am a on a.oid = c.opcmethod
    where not exists (select from member m where m.classid = 'pg_opclass'::regclass and m.objid = c.oid)
),
coll as (
    select c.*, format('%I.%I', n.nspname, c.collname) as name, to_jsonb(c) as j
    from pg_collation c join ns n on n.oid = c.collnamespace
    where not exists (select from member m where m.classid = 'pg_collation'::regclass and m.objid = c.oid)
),
conversion as (
    select c.*, format('%I.%I', n.nspname, c.conname) as name
    from pg_conversion c join ns n on n.oid = c.connamespace
    where not exists (select from member m where m.classid = 'pg_conversion'::regclass and m.objid = c.oid)
),
statistics as (
    select s.*, format('%I.%I', n.nspname, s.stxname) as name
    from pg_statistic_ext s join ns n on n.oid = s.stxnamespace
    where not exists (select from member m where m.classid = 'pg_statistic_ext'::regclass and m.objid = s.oid)
),
config as (
    select c.*, format('%I.%I', n.nspname, c.cfgname) as name
    from pg_ts_config c join ns n on n.oid = c.cfgnamespace
    where not exists (select from member m where m.classid = 'pg_ts_config'::regclass and m.objid = c.oid)
),
dict as (
    select d.*, format('%I.%I', n.nspname, d.dictname) as name
    from pg_ts_dict d join ns n on n.oid = d.dictnamespace
    where not exists (select from member m where m.classid = 'pg_ts_dict'::regclass and m.objid = d.oid)
),
-- Objects outside schemas: those of the server itself have small oids.
lang as (
    select * from pg_language l where l.oid >= 16384
      and not exists (select from member m where m.classid = 'pg_language'::regclass and m.objid = l.oid)
),
wrapper as (
    select * from pg_foreign_data_wrapper w
    where not exists (select from member m where m.classid = 'pg_foreign_data_wrapper'::regclass and m.objid = w.oid)
),
server as (
    select * from pg_foreign_server s
    where not exists (select from member m where m.classid = 'pg_foreign_server'::regclass and m.objid = s.oid)
),
event as (
    select * from pg_event_trigger t
    where not exists (select from member m where m.classid = 'pg_event_trigger'::regclass and m.objid = t.oid)
)
