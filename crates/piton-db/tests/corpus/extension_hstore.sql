-- An hstore becomes jsonb, and another one stays.
-- == setup
create extension hstore;
create table attr (id int primary key, a hstore, b hstore);
insert into attr select i, hstore('k', i::text), hstore('x', null) from generate_series(1, 30) i;
-- == migrate
alter table attr alter a type jsonb using hstore_to_jsonb(a);
-- == old
insert into attr values ({k}, hstore('t', {t}), hstore({u}, {t}))
update attr set a = hstore('n', '{n}') where id = {o}
-- == both
update attr set b = b || hstore({t}, {u}) where id = {o}
update attr set b = hstore('a=>b', null) where id = {o}
delete from attr where id = {o}
-- == new
insert into attr (id, b) values ({k}, hstore({u}, {t}))
-- was: insert into attr (id, b) values ({k}, hstore({u}, {t}))
-- == may be refused
a
