-- A full name becomes a first and a last one, which give it back.
-- == setup
create table pupil (id int primary key, name text not null, n int);
insert into pupil select i, 'first' || i || ' last' || i, i from generate_series(1, 30) i;
-- == migrate
alter table pupil add column first text, add column last text;
update pupil set first = split_part(name, ' ', 1), last = substr(name, strpos(name, ' ') + 1);
alter table pupil drop column name;
-- == old
insert into pupil values ({k}, 'x{i} y{j}', {i})
update pupil set name = 'z{i} ' || {t} where id = {o}
-- == new
update pupil set n = {i} where id = {o}
-- was: update pupil set n = {i} where id = {o}
update pupil set last = {u} where id = {o}
-- was: update pupil set name = split_part(name, ' ', 1) || ' ' || {u} where id = {o}
update pupil set first = 'a{j}' where id = {o}
-- was: update pupil set name = 'a{j} ' || substr(name, strpos(name, ' ') + 1) where id = {o}
insert into pupil values ({k}, {i}, 'b{j}', {u})
-- was: insert into pupil values ({k}, 'b{j} ' || {u}, {i})
delete from pupil where id = {o}
-- was: delete from pupil where id = {o}
-- == down
pupil.name = concat_ws(' ', first, last)
