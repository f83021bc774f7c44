-- The canonical listing of a database's objects: each by name with its definition, in two columns, key and definition.
--
-- The files of this folder make two statements, each joined by `union all`: what most databases have, and what `rare.sql` finds
-- in few, half of all catalogues, which need not be planned for then. They run with search_path = '', so that every name in a
-- definition comes out qualified; never an oid, which differ between equal databases. What people made has an oid of at least
-- 16384. What a server of another version calls otherwise, or does not have, is read through to_jsonb(row), where a missing
-- column is a null. Lists are sorted with collate "C", for databases of another collation.
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
    -- Where a replay stands is no part of the golden copy that it is kept in, nor is what notes writes one of the database.
    where nspname not in ('information_schema', 'piton_replay', 'piton_capture') and nspname !~ '^pg_'
),
rel as (
    select c.*, format('%I.%I', n.nspname, c.relname) as name
    from pg_class c join ns n on n.oid = c.relnamespace left join pg_index i on i.indexrelid = c.oid
    where c.oid >= 16384 and c.relpersistence <> 't'
      -- An index goes with its table.
      and not exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = coalesce(i.indrelid, c.oid))
      and not exists (select from member m where m.classid = 'pg_type'::regclass and m.objid = c.reltype)
),
proc as (
    select p.*, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as name
    from pg_proc p join ns n on n.oid = p.pronamespace
    where p.oid >= 16384
      and not exists (select from member m where m.classid = 'pg_proc'::regclass and m.objid = p.oid)
      -- A range type's own: after a restore they belong to whoever restored.
      and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'i')
),
-- Types that people make; those of tables, of arrays and of multiranges come along with what they belong to.
typ as (
    select t.*, format('%I.%I', n.nspname, t.typname) as name,
           case t.typtype when 'd' then 'domain ' when 'c' then 'composite type ' else 'type ' end as kind
    from pg_type t join ns n on n.oid = t.typnamespace left join pg_class c on c.oid = t.typrelid
    where t.oid >= 16384 and (c.oid is null or c.relkind = 'c') and t.typtype <> 'm'
      and not exists (select from pg_type e where e.oid = t.typelem and e.typarray = t.oid)
      and not exists (select from member m where m.classid = 'pg_type'::regclass and m.objid = t.oid)
)
