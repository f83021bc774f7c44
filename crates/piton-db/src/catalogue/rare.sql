-- Collations, text search, and what is made of functions.
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
union all
select 'statistics ' || name,
       concat_ws(' ', pg_get_statisticsobjdef(s.oid), 'target ' || nullif(to_jsonb(s) ->> 'stxstattarget', '-1'))
from statistics s
union all
select 'operator ' || name,
       concat_ws(' ', format_type(oprresult, null), oprcode::regprocedure, oprrest::regprocedure, oprjoin::regprocedure,
         'commutator ' || nullif(oprcom, 0)::regoperator, 'negator ' || nullif(oprnegate, 0)::regoperator,
         case when oprcanmerge then 'merges' end, case when oprcanhash then 'hashes' end)
from operator
union all
select 'operator family ' || family.name,
       concat_ws('; ',
         (select string_agg(text, '; ' order by text collate "C") from (
            select concat_ws(' ', 'operator', o.amopstrategy, o.amopopr::regoperator,
                     'order by ' || (select format('%s.%I', s.opfnamespace::regnamespace, s.opfname)
                                     from pg_opfamily s where s.oid = o.amopsortfamily)) as text
            from pg_amop o where o.amopfamily = family.oid) _),
         (select string_agg(text, '; ' order by text collate "C") from (
            select concat_ws(' ', 'function', p.amprocnum, format_type(p.amproclefttype, null),
                     format_type(p.amprocrighttype, null), p.amproc::regprocedure) as text
            from pg_amproc p where p.amprocfamily = family.oid) _))
from family
union all
select 'operator class ' || class.name,
       concat_ws(' ', case when class.opcdefault then 'default' end, 'for', format_type(class.opcintype, null),
         'storage ' || format_type(nullif(class.opckeytype, 0), null),
         'family', format('%s.%I', f.opfnamespace::regnamespace, f.opfname))
from class join pg_opfamily f on f.oid = class.opcfamily
union all
select format('cast %s as %s', format_type(c.castsource, null), format_type(c.casttarget, null)),
       concat_ws(' ', c.castfunc::regprocedure, c.castcontext, c.castmethod)
from pg_cast c where c.oid >= 16384
  and not exists (select from pg_range r where r.rngtypid = c.castsource and r.rngmultitypid = c.casttarget)
  and not exists (select from member m where m.classid = 'pg_cast'::regclass and m.objid = c.oid)
union all
select format('transform for %s language %I', format_type(t.trftype, null), l.lanname),
       concat_ws(' ', t.trffromsql::regprocedure, t.trftosql::regprocedure)
from pg_transform t join pg_language l on l.oid = t.trflang
where not exists (select from member m where m.classid = 'pg_transform'::regclass and m.objid = t.oid)
union all
select 'conversion ' || name,
       concat_ws(' ', case when condefault then 'default' end, pg_encoding_to_char(conforencoding), 'to',
         pg_encoding_to_char(contoencoding), conproc::regprocedure)
from conversion
union all
select format('language %I', lanname),
       concat_ws(' ', case when lanpltrusted then 'trusted' end, lanplcallfoid::regprocedure, laninline::regprocedure,
         lanvalidator::regprocedure)
from lang
union all
select format('access method %I', a.amname), concat_ws(' ', a.amtype, a.amhandler::regprocedure)
from pg_am a where a.oid >= 16384
  and not exists (select from member m where m.classid = 'pg_am'::regclass and m.objid = a.oid)
union all
select format('event trigger %I', evtname),
       concat_ws(' ', evtevent, array_to_string(evttags, ', '), evtfoid::regprocedure, 'enabled', evtenabled)
from event
