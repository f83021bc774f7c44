-- A json becomes jsonb; all that is written is as jsonb writes it.
-- == setup
create table doc (id int primary key, body json, n int);
insert into doc select i, jsonb_build_object('a', i, 'b', null)::text::json, i from generate_series(1, 30) i;
-- == migrate
alter table doc alter body type jsonb;
-- == old
insert into doc values ({k}, jsonb_build_object('text', {t}::text)::text::json, {i})
update doc set body = jsonb_build_array({i}, {t}::text, null)::text::json where id = {o}
-- == new
insert into doc values ({k}, jsonb_build_object('text', {t}::text), {i})
-- was: insert into doc values ({k}, jsonb_build_object('text', {t}::text)::text::json, {i})
update doc set body = jsonb_build_array({i}, {t}::text, null) where id = {o}
-- was: update doc set body = jsonb_build_array({i}, {t}::text, null)::text::json where id = {o}
-- == both
update doc set n = {i} where id = {o}
update doc set body = 'null' where id = {o}
delete from doc where id = {o}
