-- A json becomes jsonb, which drops spaces, the order of keys and keys that are there twice.
-- == setup
create table hook (id int primary key, body json, note text);
insert into hook select i, format('{"b":  %s, "a": 1, "b": 1.10}', i)::json from generate_series(1, 30) i;
-- == migrate
alter table hook alter body type jsonb;
-- == old
insert into hook values ({k}, '{"z":1,  "a":{i}}')
update hook set body = '[ {i} ]' where id = {o}
update hook set note = {t} where id = {o}
-- == quiet
a json is another text afterwards
-- == new
insert into hook (id, body) values ({k}, '{"a": 1}')
-- was: insert into hook (id, body) values ({k}, '{"a": 1}')
update hook set body = '[{i}, {i}]' where id = {o}
-- was: update hook set body = '[{i}, {i}]' where id = {o}
update hook set note = {t} where id = {o}
-- was: update hook set note = {t} where id = {o}
-- == may be refused
body
