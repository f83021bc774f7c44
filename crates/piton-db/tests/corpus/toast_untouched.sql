-- Large values that an UPDATE of other columns does not touch are in no log.
-- == setup
create function large(seed int) returns text language sql immutable as $$ select string_agg(md5((seed * 1000 + i)::text), '') from generate_series(1, 300) i $$;
create table file (id int primary key, name text, a text, b text, c bytea, n int);
alter table file alter b set storage external;
insert into file select i, 'n' || i, large(i), large(i + 1), decode(large(i + 2), 'hex'), i from generate_series(1, 30) i;
-- == migrate
alter table file rename a to content;
alter table file add column size int;
-- == migrate
update file set size = 0;
-- == migrate
alter table file drop column n;
-- == old
insert into file (id, name, a, b, n) values ({k}, {t}, large({n}), large({i}), {i})
update file set a = large({n}) where id = {o}
update file set n = {i} where id = {o}
-- == new
insert into file (id, name, content, b) values ({k}, {t}, large({n}), large({i}))
-- was: insert into file (id, name, a, b) values ({k}, {t}, large({n}), large({i}))
update file set content = large({n}), size = {i} where id = {o}
-- was: update file set a = large({n}) where id = {o}
update file set size = {i} where id = {o}
-- was: update file set name = name where id = {o}
-- == both
update file set name = {t} where id = {o}
update file set b = large({n}) where id = {o}
update file set c = decode(large({n}), 'hex'), id = {k} where id = {o}
update file set b = null where id = {o}
delete from file where id = {o}
-- == may be refused
file
