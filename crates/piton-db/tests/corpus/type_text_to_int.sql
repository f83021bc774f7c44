-- A text that holds numbers becomes a number.
-- == setup
create table room (id int primary key, floor text, name text);
insert into room select i, i::text, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table room alter floor type int using floor::int;
-- == old
insert into room values ({k}, '{n}', {t})
update room set floor = '{n}' where id = {o}
-- == new
insert into room values ({k}, {n}, {t})
-- was: insert into room values ({k}, '{n}', {t})
update room set floor = {n} where id = {o}
-- was: update room set floor = '{n}' where id = {o}
-- == both
update room set name = {t} where id = {o}
update room set floor = null where id = {o}
delete from room where id = {o}
