-- Rows with large values get other keys: the large value is in no log, and the row has another name.
-- == setup
create function large(seed int) returns text language sql immutable as $$ select string_agg(md5((seed * 1000 + i)::text), '') from generate_series(1, 300) i $$;
create table file (id int primary key, part int, body text, tail text);
insert into file select i, 0, large(i), large(-i) from generate_series(1, 30) i;
-- == migrate
alter table file alter part type bigint;
-- == both
insert into file values ({k}, {i}, large({n}), large({j}))
update file set id = {k} where id = {o}
update file set id = {k}, part = {i} where id = {o}; update file set part = {j} where id = {k}
update file set id = {k} where id = {o}; update file set tail = large({n}) where id = {k}
delete from file where id = {o}; insert into file values ({o}, {i}, large({n}), null)
update file set part = {j} where id = {o}
