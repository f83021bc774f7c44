-- A table is no longer logged: what the app writes into it afterwards is nowhere to be read.
-- == setup
create table hits (id int primary key, n int);
create table kept (id int primary key, v text);
insert into hits select i, i from generate_series(1, 30) i;
insert into kept select i, 'k' || i from generate_series(1, 30) i;
-- == migrate
alter table hits set unlogged;
-- == both
insert into hits values ({k:hits}, {i})
update hits set n = n + 1 where id = {o:hits}
insert into kept (id, v) values ({k}, {t})
update kept set v = {t} where id = {o}
-- == loses
public.hits: hits
-- == may be refused
hits
