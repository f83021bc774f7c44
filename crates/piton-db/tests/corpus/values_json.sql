-- JSON in all its forms, of which json keeps every space and jsonb does not.
-- == setup
create table js (id int primary key, a json, b jsonb, c jsonb[], d jsonpath);
insert into js select i, '{"a" :  1, "a": 2}', '{}', null, '$.a' from generate_series(1, 30) i;
-- == migrate
alter table js rename b to data;
alter table js add column e jsonb default '{}';
-- == old
insert into js (id, b) values ({k}, jsonb_build_object({t}, {u}::text, 'n', 1.10, 'z', null))
update js set b = jsonb_set(b, '{x}', to_jsonb({t}::text)) where id = {o}
-- == new
insert into js (id, data) values ({k}, jsonb_build_object({t}, {u}::text, 'n', 1.10, 'z', null))
-- was: insert into js (id, b) values ({k}, jsonb_build_object({t}, {u}::text, 'n', 1.10, 'z', null))
update js set data = jsonb_set(data, '{x}', to_jsonb({t}::text)) where id = {o}
-- was: update js set b = jsonb_set(b, '{x}', to_jsonb({t}::text)) where id = {o}
-- == both
update js set a = format('{"k" : %s,   "k":[ ] , "n": 1.10e1}', to_json({t}::text))::json where id = {o}
update js set a = 'null', c = array['null', to_jsonb({t}::text), null]::jsonb[], d = '$.a[*] ? (@ > 1)' where id = {o}
delete from js where id = {o}
