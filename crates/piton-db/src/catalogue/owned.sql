-- Whatever has an owner; with the letter by which acldefault() knows it, where it has privileges.
, owned (name, owner, acl, kind) as (
    select format('schema %I', nspname), nspowner, nspacl, 'n' from ns
    where not exists (select from member m where m.classid = 'pg_namespace'::regclass and m.objid = ns.oid)
    union all select name, relowner, relacl, case relkind when 'S' then 's' else 'r' end
    from rel where relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all select 'function ' || name, proowner, proacl, 'f' from proc
    union all select kind || name, typowner, typacl, 'T' from typ
    union all select format('column %s.%I', rel.name, a.attname), rel.relowner, a.attacl, 'c'
    from rel join pg_attribute a on a.attrelid = rel.oid and not a.attisdropped where a.attacl is not null
),
-- What comes with the server or an extension, where its privileges are no longer the first ones: the dump carries the difference.
-- Privileges that were once changed are never null again, but those of a column.
regranted (classid, objid, objsubid, now, first) as (
    select h.classid, h.objid, h.objsubid, coalesce(h.acl, acldefault(h.kind::"char", h.owner)),
           coalesce(i.initprivs, acldefault(h.kind::"char", h.owner))
    from (select 'pg_class'::regclass, oid, 0, case relkind when 'S' then 's' else 'r' end, relowner, relacl
          from pg_class where relacl is not null
          union all select 'pg_class'::regclass, c.oid, a.attnum, 'c', c.relowner, a.attacl
          from pg_class c join pg_attribute a on a.attrelid = c.oid
          where a.attacl is not null or exists (
            select from pg_init_privs p
            where p.classoid = 'pg_class'::regclass and p.objoid = a.attrelid and p.objsubid = a.attnum)
          union all select 'pg_proc'::regclass, oid, 0, 'f', proowner, proacl from pg_proc where proacl is not null
          union all select 'pg_type'::regclass, oid, 0, 'T', typowner, typacl from pg_type where typacl is not null
          union all select 'pg_namespace'::regclass, oid, 0, 'n', nspowner, nspacl from pg_namespace
          union all select 'pg_language'::regclass, oid, 0, 'l', lanowner, lanacl from pg_language
          union all select 'pg_foreign_data_wrapper'::regclass, oid, 0, 'F', fdwowner, fdwacl from pg_foreign_data_wrapper
          union all select 'pg_foreign_server'::regclass, oid, 0, 'S', srvowner, srvacl from pg_foreign_server)
         h (classid, objid, objsubid, kind, owner, acl)
    left join pg_init_privs i on i.classoid = h.classid and i.objoid = h.objid and i.objsubid = h.objsubid
    where h.acl is distinct from i.initprivs
      and (h.objid < 16384 or exists (select from member m where m.classid = h.classid and m.objid = h.objid))
      and not (h.classid = 'pg_namespace'::regclass and exists (
        select from ns where ns.oid = h.objid
          and not exists (select from member m where m.classid = h.classid and m.objid = h.objid)))
)
