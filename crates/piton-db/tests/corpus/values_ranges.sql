-- Ranges and multiranges, empty and without ends, of own types as well.
-- == setup
create type floatrange as range (subtype = float8, subtype_diff = float8mi);
create table rg (id int primary key, a int4range, b numrange, c tsrange, d int8multirange, e floatrange, f floatrange[]);
insert into rg select i, int4range(1, i + 1) from generate_series(1, 30) i;
-- == migrate
alter table rg rename a to span;
alter table rg alter d type text using d::text;
alter table rg alter d type int8multirange using d::int8multirange;
-- == old
update rg set a = int4range({i}, {i} + {j}, '(]') where id = {o}
insert into rg (id, a) values ({k}, 'empty')
-- == new
update rg set span = int4range({i}, {i} + {j}, '(]') where id = {o}
-- was: update rg set a = int4range({i}, {i} + {j}, '(]') where id = {o}
insert into rg (id, span) values ({k}, 'empty')
-- was: insert into rg (id, a) values ({k}, 'empty')
-- == both
update rg set b = numrange(null, 1.10 * {n}, '(]'), c = tsrange('-infinity', null) where id = {o}
update rg set d = int8multirange(int8range({i}, {i} + 5), int8range(100, null)) where id = {o}
update rg set e = floatrange('-0', 'Infinity', '[]'), f = array['empty', floatrange({i}, {i} + 0.1)]::floatrange[] where id = {o}
update rg set d = '{}' where id = {o}
delete from rg where id = {o}
