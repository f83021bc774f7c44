-- A table is made anew in partitions.
-- == setup
create table measure (id int primary key, sensor int not null, v float8);
insert into measure select i, i % 4, i / 3.0 from generate_series(1, 30) i;
-- == migrate
lock table measure;
alter table measure rename to measure_old;
alter index measure_pkey rename to measure_old_pkey;
create table measure (id int, sensor int not null, v float8, primary key (id)) partition by hash (id);
create table measure_0 partition of measure for values with (modulus 2, remainder 0);
create table measure_1 partition of measure for values with (modulus 2, remainder 1);
insert into measure select * from measure_old;
drop table measure_old;
-- == both
insert into measure values ({k}, {i}, {n} / 7.0)
update measure set v = {n} / 9.0 where id = {o}
update measure set id = {k}, sensor = {i} where id = {o}
delete from measure where id = {o}
