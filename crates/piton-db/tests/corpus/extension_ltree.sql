-- Paths of labels become ltree.
-- == setup
create table topic (id int primary key, path text, name text);
insert into topic select i, 'root.t' || i, 'n' || i from generate_series(1, 30) i;
-- == migrate
create extension ltree;
alter table topic alter path type ltree using path::ltree;
create index topic_path on topic using gist (path);
-- == both
insert into topic values ({k}, 'root.a{i}.b{j}', {t})
update topic set path = 'root.x{n}' where id = {o}
update topic set path = '', name = {t} where id = {o}
delete from topic where id = {o}
