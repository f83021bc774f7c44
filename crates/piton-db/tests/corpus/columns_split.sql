-- A full name becomes a first and a last one.
-- == setup
create table pupil (id int primary key, name text not null default '', n int);
insert into pupil select i, 'first' || i || ' last' || i, i from generate_series(1, 30) i;
-- == migrate
alter table pupil add column first text, add column last text;
update pupil set first = split_part(name, ' ', 1), last = split_part(name, ' ', 2);
alter table pupil drop column name;
-- == old
insert into pupil values ({k}, 'x{i} y{j}', {i})
update pupil set name = 'z{i} ' || {t} where id = {o}
-- == new
update pupil set n = {i} where id = {o}
-- was: update pupil set n = {i} where id = {o}
update pupil set first = {t}, last = {u} where id = {o}
-- was: update pupil set n = n where id = {o}
insert into pupil values ({k:NEW}, {i}, {t}, {u})
-- was: insert into pupil (id, n) values ({k:NEW}, {i})
delete from pupil where id = {o}
-- was: delete from pupil where id = {o}
-- == loses
public.pupil.name: name
-- == may be refused
name
