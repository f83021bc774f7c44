-- A table without a column, and one that loses all.
-- == setup
create table tick ();
create table empty (id int primary key);
create table doc (id int primary key, v text);
insert into tick default values;
insert into doc select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table tick add column at timestamptz default now();
alter table doc add column w text;
drop table empty;
-- == both
insert into tick default values
insert into doc (id, v) values ({k}, {t})
update doc set v = {t} where id = {o}
delete from doc where id = {o}
-- == may be refused
tick
