-- Comments and security labels. Those on the server's own objects have small oids; only the one on `public` is in a dump.
-- The one on plpgsql every copy has from template0.
select format('comment on %s %s', o.type, o.identity), d.description
from pg_description d, pg_identify_object(d.classoid, d.objoid, d.objsubid) o
where (d.objoid >= 16384 or d.classoid = 'pg_namespace'::regclass and d.objoid in (select oid from ns))
  and d.classoid <> 'pg_largeobject'::regclass and o.identity !~ '(^|[ (])pg_temp\.'
  and not exists (select from member m where m.classid = d.classoid and m.objid = d.objoid)
  and not exists (select from pg_extension e where d.classoid = 'pg_extension'::regclass and d.objoid = e.oid and e.extname = 'plpgsql')
union all
select format('security label of %s on %s %s', l.provider, o.type, o.identity), l.label
from pg_seclabel l, pg_identify_object(l.classoid, l.objoid, l.objsubid) o
where l.classoid <> 'pg_largeobject'::regclass and o.identity !~ '(^|[ (])pg_temp\.'
