-- A json becomes jsonb, which drops spaces, the order of keys and keys that are there twice.
-- == setup
create table hook (id int primary key, body json);
insert into hook select i, format('{"b":  %s, "a": 1, "b": 1.10}', i)::json from generate_series(1, 30) i;
-- == migrate
alter table hook alter body type jsonb;
-- == old
insert into hook values ({k}, '{"z":1,  "a":{i}}')
update hook set body = '[ {i} ]' where id = {o}
-- == refused
body
