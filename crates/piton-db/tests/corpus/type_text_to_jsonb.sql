-- A text that holds JSON becomes jsonb.
-- == setup
create table setting (id int primary key, v text);
insert into setting select i, jsonb_build_object('on', i % 2 = 0)::text from generate_series(1, 30) i;
-- == migrate
alter table setting alter v type jsonb using v::jsonb;
-- == old
insert into setting values ({k}, jsonb_build_object('x', {t}::text)::text)
update setting set v = '[{i}, {j}]' where id = {o}
-- == new
insert into setting values ({k}, jsonb_build_object('x', {t}::text))
-- was: insert into setting values ({k}, jsonb_build_object('x', {t}::text)::text)
update setting set v = '[{i},{j}]' where id = {o}
-- was: update setting set v = '[{i}, {j}]' where id = {o}
-- == both
delete from setting where id = {o}
