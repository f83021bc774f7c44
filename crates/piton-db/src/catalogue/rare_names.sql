-- The names of what few databases have, after those of `names.sql`.
, operator as (
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
    where t.evtname !~ '^piton_capture_' and not exists (select from member m where m.classid = 'pg_event_trigger'::regclass and m.objid = t.oid)
)
-- Whatever of it has an owner, as in `owned.sql`.
, owned (name, owner, acl, kind) as (
    select 'operator ' || name, oprowner, null::aclitem[], null from operator
    union all select 'operator family ' || name, opfowner, null, null from family
    union all select 'operator class ' || name, opcowner, null, null from class
    union all select 'collation ' || name, collowner, null, null from coll
    union all select 'conversion ' || name, conowner, null, null from conversion
    union all select 'statistics ' || name, stxowner, null, null from statistics
    union all select 'text search configuration ' || name, cfgowner, null, null from config
    union all select 'text search dictionary ' || name, dictowner, null, null from dict
    union all select format('language %I', lanname), lanowner, lanacl, 'l' from lang
    union all select format('foreign-data wrapper %I', fdwname), fdwowner, fdwacl, 'F' from wrapper
    union all select format('foreign server %I', srvname), srvowner, srvacl, 'S' from server
    union all select format('event trigger %I', evtname), evtowner, null, null from event
    union all select format('publication %I', pubname), pubowner, null, null from pg_publication
    union all select format('subscription %I', subname), subowner, null, null from pg_subscription
    where subdbid = (select d.oid from pg_database d where d.datname = current_database())
)
