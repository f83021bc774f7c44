-- A table whose changes tell nothing of the row before.
-- == setup
create table doc (id int primary key, v text);
alter table doc replica identity nothing;
create table other (id int primary key, v text);
insert into doc select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table other add column w int;
-- == old
insert into doc values ({k}, {t})
update doc set v = {t} where id = {o}
delete from doc where id = {o}
-- == refused
doc
