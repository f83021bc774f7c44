-- Partitions of partitions, of which one level is taken out.
-- == setup
create table cell (id int, a int, b int, v text, primary key (id, a, b)) partition by list (a);
create table cell_0 partition of cell for values in (0) partition by list (b);
create table cell_0_0 partition of cell_0 for values in (0);
create table cell_0_x partition of cell_0 default;
create table cell_x partition of cell default;
insert into cell select i, i % 2, i % 3, 'v' || i from generate_series(1, 30) i;
-- == migrate
lock table cell;
alter table cell detach partition cell_0;
create table cell_zero (like cell including all);
insert into cell_zero select * from cell_0;
drop table cell_0;
alter table cell attach partition cell_zero for values in (0);
-- == both
insert into cell values ({k}, {i} % 2, {j} % 3, {t})
update cell set v = {t} where id = {o}
update cell set a = {i} % 2, b = {j} % 3 where id = {o}
delete from cell where id = {o}
-- == may be refused
cell
