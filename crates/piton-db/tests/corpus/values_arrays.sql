-- Arrays with bounds, dimensions, NULLs and hard texts in them, and one that changes its type.
-- == setup
create type tone as enum ('do', 're', 'mi fa');
create table arr (id int primary key, a text[], b int[], c tone[], d numeric[][], e bytea[]);
insert into arr select i, array['a' || i], array[i], array['do']::tone[], null, null from generate_series(1, 30) i;
-- == migrate
alter table arr rename a to texts;
alter table arr alter b type bigint[];
-- == old
update arr set a = array[{t}, null, {u}, 'NULL', ''] where id = {o}
insert into arr (id, a) values ({k}, array[array[{t}, {u}], array['x', null]])
-- == new
update arr set texts = array[{t}, null, {u}, 'NULL', ''] where id = {o}
-- was: update arr set a = array[{t}, null, {u}, 'NULL', ''] where id = {o}
insert into arr (id, texts) values ({k}, array[array[{t}, {u}], array['x', null]])
-- was: insert into arr (id, a) values ({k}, array[array[{t}, {u}], array['x', null]])
-- == both
update arr set b = '[-2:0]={1,null,{n}}' where id = {o}
update arr set b = '{}', c = array['mi fa', null, 're']::tone[] where id = {o}
update arr set b = array[{i}, {j}], c = '{}' where id = {o}
update arr set d = array[array[1.10, 'NaN'], array['-Infinity', {n}]]::numeric[], e = array['\x00'::bytea, convert_to({t}, 'UTF8'), null] where id = {o}
delete from arr where id = {o}
