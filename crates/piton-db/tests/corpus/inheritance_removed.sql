-- A child leaves its parent and loses an inherited column.
-- == setup
create table media (id int primary key, title text, size int);
create table film (minutes int, primary key (id)) inherits (media);
insert into media select i, 'm' || i, i from generate_series(1, 30) i;
insert into film select i + 1000000, 'f' || i, i, i from generate_series(1, 30) i;
-- == migrate
alter table film no inherit media;
alter table film drop column size;
-- == old
insert into film (id, title, size, minutes) values ({k:film} + 1000000, {t}, {i}, {j})
update media set title = {t} where id = {o:film} + 1000000
update media set title = {t} where id = {o}
-- == new
insert into film (id, title, minutes) values ({k:film} + 1000000, {t}, {j})
-- was: insert into film (id, title, minutes) values ({k:film} + 1000000, {t}, {j})
update film set title = {t} where id = {o:film} + 1000000
-- was: update media set title = {t} where id = {o:film} + 1000000
update media set title = {t} where id = {o}
-- was: update media set title = {t} where id = {o}
-- == both
insert into media values ({k}, {t}, {i})
update film set minutes = {i} where id = {o:film} + 1000000
delete from film where id = {o:film} + 1000000
