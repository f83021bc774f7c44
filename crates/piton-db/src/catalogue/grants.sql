-- Owners and privileges of what is in `owned`. Their keys begin with `owner of ` and `grants on `, by which they can be left out.
select 'owner of ' || name, pg_get_userbyid(owner)::text from owned where kind is distinct from 'c'
union all
select 'grants on ' || held.name, granted.list
from (select name, owner, coalesce(acl, acldefault(kind::"char", owner)) as acl from owned where kind is not null) held,
     lateral (
       select string_agg(concat_ws(' ', coalesce(r.rolname, 'public'), a.privilege_type, case when a.is_grantable then '*' end,
                           'by ' || case when a.grantor <> held.owner then pg_get_userbyid(a.grantor) end),
                         ', ' order by r.rolname, a.privilege_type, pg_get_userbyid(a.grantor)) as list
       from aclexplode(held.acl) a left join pg_roles r on r.oid = a.grantee) granted
where granted.list is not null
