-- A table, its sequence and its type move to another schema.
-- == setup
create type public.grade as enum ('a', 'b');
create table public.exam (id serial primary key, key int unique, grade grade, note text);
insert into exam (key, grade, note) select i, 'a', 'n' || i from generate_series(1, 30) i;
-- == migrate
create schema school;
alter table public.exam set schema school;
alter type public.grade set schema school;
-- == old
insert into exam (key, grade, note) values ({k}, 'b', {t})
update exam set note = {t}, grade = 'a' where key = {o}
delete from exam where key = {o}
-- == new
insert into school.exam (key, grade, note) values ({k}, 'b', {t})
-- was: insert into exam (key, grade, note) values ({k}, 'b', {t})
update school.exam set note = {t}, grade = 'a' where key = {o}
-- was: update exam set note = {t}, grade = 'a' where key = {o}
delete from school.exam where key = {o}
-- was: delete from exam where key = {o}
-- == check
select key, grade, note from public.exam
