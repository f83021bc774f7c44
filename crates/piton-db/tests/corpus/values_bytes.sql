-- Bytes, bit strings, addresses, codes and other types whose texts are unlike others.
-- == setup
create table raw (id int primary key, a bytea, b bit varying, c inet, d cidr, e macaddr, f uuid, g "char", h name, i xml, j tsvector, k point, l polygon, m pg_lsn);
insert into raw (id, a) select i, decode(md5(i::text), 'hex') from generate_series(1, 30) i;
-- == migrate
alter table raw rename a to bytes;
alter table raw drop column m;
alter table raw add column n int;
-- == old
insert into raw (id, a) values ({k}, decode(md5({t}), 'hex') || '\x000a0d5c27'::bytea)
update raw set a = '' where id = {o}
-- == new
insert into raw (id, bytes) values ({k}, decode(md5({t}), 'hex') || '\x000a0d5c27'::bytea)
-- was: insert into raw (id, a) values ({k}, decode(md5({t}), 'hex') || '\x000a0d5c27'::bytea)
update raw set bytes = '' where id = {o}
-- was: update raw set a = '' where id = {o}
-- == both
set local bytea_output = 'escape'; update raw set b = {n}::bit(24)::varbit, c = inet '10.0.0.0/8' + {n}, d = '2001:db8::/32' where id = {o}
update raw set e = '08:00:2b:01:02:03', f = md5({t})::uuid, g = (array['a', '', '\200'])[1 + {i} % 3]::"char", h = {t} where id = {o}
update raw set i = xmlelement(name a, xmlattributes({t} as b), '<&>') where id = {o} and xmlelement(name a, {t}) is document
update raw set j = to_tsvector('simple', {t} || ' it''s a:1 \b') where id = {o}
update raw set k = point({i} / 3.0, '-0'::float8), l = polygon '((0,0),(1,0.1),(1e-300,NaN))' where id = {o}
delete from raw where id = {o}
