-- A table with a key whose changes tell the whole row before.
-- == setup
create table doc (id int primary key, a text, b text, c int);
alter table doc replica identity full;
insert into doc select i, 'a' || i, 'b' || i, i from generate_series(1, 30) i;
-- == migrate
update doc set c = 0 where c % 2 = 0;
alter table doc rename a to title;
-- == old
insert into doc values ({k}, {t}, {u}, {i})
update doc set a = {t} where id = {o}
-- == new
insert into doc (id, title, b, c) values ({k}, {t}, {u}, {i})
-- was: insert into doc values ({k}, {t}, {u}, {i})
update doc set title = {t} where id = {o}
-- was: update doc set a = {t} where id = {o}
-- == both
update doc set b = {u} where id = {o}
update doc set id = {k}, b = null where id = {o}
delete from doc where id = {o}
-- == may be refused
doc
