-- A schema with tables that refer to each other is renamed.
-- == setup
create schema "Shop";
create domain "Shop".short as text check (length(value) < 40);
create table "Shop".item (id int primary key, name "Shop".short);
create table "Shop".stock (item_id int primary key references "Shop".item on delete cascade, n int);
insert into "Shop".item select i, 'i' || i from generate_series(1, 30) i;
insert into "Shop".stock select i, i from generate_series(1, 30) i;
-- == migrate
alter schema "Shop" rename to "Büro";
-- == old
insert into "Shop".item values ({k}, {t}); insert into "Shop".stock values ({k}, {i})
update "Shop".stock set n = {i} where item_id = {o}
update "Shop".item set name = {t} where id = {o}
-- == new
insert into "Büro".item values ({k}, {t}); insert into "Büro".stock values ({k}, {i})
-- was: insert into "Shop".item values ({k}, {t}); insert into "Shop".stock values ({k}, {i})
update "Büro".stock set n = {i} where item_id = {o}
-- was: update "Shop".stock set n = {i} where item_id = {o}
update "Büro".item set name = {t} where id = {o}
-- was: update "Shop".item set name = {t} where id = {o}
delete from "Büro".item where id = {o}
-- was: delete from "Shop".item where id = {o}
