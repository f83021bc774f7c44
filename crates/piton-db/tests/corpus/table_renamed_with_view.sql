-- A table is renamed, and a view of the old name lets the old app go on.
-- == setup
create table client (id int primary key, name text not null, city text);
insert into client select i, 'c' || i, 'x' from generate_series(1, 30) i;
-- == migrate
alter table client rename to company;
alter table company rename name to title;
create view client as select id, title as name, city from company;
-- == old
insert into client values ({k}, {t}, {u})
update client set name = {t} where id = {o}
-- == both
update client set city = {t} where id = {o}
delete from client where id = {o}
-- == new
insert into company (id, title) values ({k}, {t})
-- was: insert into client (id, name) values ({k}, {t})
update company set title = {t} where id = {o}
-- was: update client set name = {t} where id = {o}
