-- All rows are taken out and put back, sorted; keys and values are as before.
-- == setup
create table score (id int primary key, v int, name text);
insert into score select i, (i * 7919) % 100, 'n' || i from generate_series(1, 30) i;
-- == migrate
create temp table kept as select * from score with no data;
lock table score;
insert into kept select * from score;
truncate score;
insert into score select * from kept order by v;
drop table kept;
-- == both
insert into score values ({k}, {i}, {t})
update score set v = {i} where id = {o}
update score set name = {t} where id = {o}
delete from score where id = {o}
