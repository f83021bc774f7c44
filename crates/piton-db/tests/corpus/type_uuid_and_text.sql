-- A text becomes a uuid, and a uuid a text; one key among them.
-- == setup
create table token (id uuid primary key, other text, n int);
insert into token select md5(i::text)::uuid, md5('o' || i)::uuid::text, i from generate_series(1, 30) i;
-- == migrate
alter table token alter id type text;
alter table token alter other type uuid using other::uuid;
-- == old
insert into token values (md5('{k}')::uuid, md5({t})::uuid::text, {i})
update token set n = {i} where id = md5('{o}')::uuid
delete from token where id = md5('{o}')::uuid
-- == new
insert into token values (md5('{k}')::uuid::text, md5({t})::uuid, {i})
-- was: insert into token values (md5('{k}')::uuid, md5({t})::uuid::text, {i})
update token set n = {i}, other = md5({t})::uuid where id = md5('{o}')::uuid::text
-- was: update token set n = {i}, other = md5({t})::uuid::text where id = md5('{o}')::uuid
delete from token where id = md5('{o}')::uuid::text
-- was: delete from token where id = md5('{o}')::uuid
