-- Privileges on the server's own objects and on those to come. Their keys begin with `grants on ` and `default privileges `.
select format('grants on %s %s', o.type, o.identity), changed.list
from regranted g, pg_identify_object(g.classid, g.objid, g.objsubid) o,
     lateral (
       select string_agg(concat_ws(' ', c.what, coalesce(r.rolname, 'public'), c.privilege_type, case when c.is_grantable then '*' end),
                         ', ' order by c.what desc, r.rolname, c.privilege_type) as list
       from ((select 'without' as what, grantee, privilege_type, is_grantable from aclexplode(g.first)
              except select 'without', grantee, privilege_type, is_grantable from aclexplode(g.now))
             union all
             (select 'with', grantee, privilege_type, is_grantable from aclexplode(g.now)
              except select 'with', grantee, privilege_type, is_grantable from aclexplode(g.first))) c
       left join pg_roles r on r.oid = c.grantee) changed
-- pg_dump looks at pg_catalog alone.
where changed.list is not null and o.identity !~ '^information_schema($|\.)'
union all
-- What objects made from now on are granted. Without a schema it stands in place of the server's own default.
select format('default privileges of %I%s on %s', pg_get_userbyid(d.defaclrole), ' in schema ' || quote_ident(n.nspname),
         case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
           when 'n' then 'schemas' when 'L' then 'large objects' else d.defaclobjtype::text end),
       coalesce(granted.list, 'none')
from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace,
     lateral (
       select string_agg(concat_ws(' ', coalesce(r.rolname, 'public'), a.privilege_type, case when a.is_grantable then '*' end),
                         ', ' order by r.rolname, a.privilege_type) as list
       from aclexplode(d.defaclacl) a left join pg_roles r on r.oid = a.grantee) granted
