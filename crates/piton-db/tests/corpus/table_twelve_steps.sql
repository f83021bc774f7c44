-- The form that tools made for SQLite write: a new table, its rows, the old one dropped, with all that refers to it.
-- == setup
create table author (id int primary key, name text unique);
create table work (id int primary key, author_id int references author on delete cascade, title text);
create view works as select w.id, w.title, a.name from work w join author a on a.id = w.author_id;
insert into author select i, 'a' || i from generate_series(1, 30) i;
insert into work select i, i, 'w' || i from generate_series(1, 30) i;
-- == migrate
lock table author, work;
drop view works;
alter table work drop constraint work_author_id_fkey;
create table new_author (id int not null primary key, name text not null, born int);
insert into new_author (id, name) select id, coalesce(name, '') from author;
drop table author;
alter table new_author rename to author;
create unique index author_name_key on author (name);
alter table work add constraint work_author_id_fkey foreign key (author_id) references author on delete cascade;
create view works as select w.id, w.title, a.name, a.born from work w join author a on a.id = w.author_id;
-- == both
insert into author (id, name) values ({k}, 'n{k}')
update author set name = 'm{o}' || {t} where id = {o}
insert into work select {k:work}, id, {t} from author where id = {o}
update work set title = {t} where id = {o:work}
delete from author where id = {o}
