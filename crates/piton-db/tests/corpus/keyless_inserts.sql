-- A table without a key, into which the app only inserts.
-- == setup
create table event (at int, what text);
create table other (id int primary key, v text);
insert into event select i, 'e' || i from generate_series(1, 30) i;
insert into event select 7, 'twice' from generate_series(1, 2);
insert into other select i, 'o' || i from generate_series(1, 30) i;
-- == migrate
alter table other add column w int;
-- == both
insert into event values ({k}, {t})
insert into event values (7, 'twice')
insert into event values (null, null)
insert into other (id, v) values ({k:other}, {t})
update other set v = {t} where id = {o:other}
-- == may be refused
event
