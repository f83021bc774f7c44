-- A domain goes, and with it what it did not allow.
-- == setup
create domain small as int check (value < 1000000);
create table box (id int primary key, n small, many small[]);
insert into box select i, i, array[i]::small[] from generate_series(1, 30) i;
-- == migrate
alter table box alter n type int, alter many type int[];
drop domain small;
-- == both
insert into box values ({k}, {n}, '{1,null}')
update box set n = {n} where id = {o}
update box set many = array[{i}, {j}] where id = {o}
delete from box where id = {o}
-- == new
insert into box values ({k:LARGE}, 1000001, null)
-- was:
-- == aside
public.box
