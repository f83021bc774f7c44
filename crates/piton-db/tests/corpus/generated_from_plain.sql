-- An ordinary column that the app filled is computed from now on.
-- == setup
create table box (id int primary key, w int, h int, area int);
insert into box select i, i, i + 1, i * (i + 1) from generate_series(1, 30) i;
-- == migrate
alter table box drop column area;
alter table box add column area int generated always as (w * h) stored;
-- == old
insert into box values ({k}, {i}, {j}, {i} * {j})
update box set w = {i}, h = {j}, area = {i} * {j} where id = {o}
-- == new
insert into box (id, w, h) values ({k}, {i}, {j})
-- was: insert into box values ({k}, {i}, {j}, {i} * {j})
update box set w = {i}, h = {j} where id = {o}
-- was: update box set w = {i}, h = {j}, area = {i} * {j} where id = {o}
-- == both
delete from box where id = {o}
-- == may be refused
area
