-- A large text becomes jsonb, and is not touched by most updates.
-- == setup
create function large(seed int) returns text language sql immutable as $$ select jsonb_build_object('v', string_agg(md5((seed * 1000 + i)::text), ''))::text from generate_series(1, 300) i $$;
create table doc (id int primary key, body text, n int);
insert into doc select i, large(i), i from generate_series(1, 30) i;
-- == migrate
alter table doc alter body type jsonb using body::jsonb;
-- == old
insert into doc values ({k}, large({n}), {i})
update doc set body = large({n}) where id = {o}
-- == new
insert into doc values ({k}, large({n})::jsonb, {i})
-- was: insert into doc values ({k}, large({n}), {i})
update doc set body = large({n})::jsonb where id = {o}
-- was: update doc set body = large({n}) where id = {o}
-- == both
update doc set n = {i} where id = {o}
update doc set id = {k} where id = {o}
delete from doc where id = {o}
