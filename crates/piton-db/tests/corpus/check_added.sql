-- A check is added without a look at the rows, and looked at afterwards.
-- == setup
create table stock (id int primary key, n int, name text);
insert into stock select i, i, 'n' || i from generate_series(1, 30) i;
insert into stock values (100, -5, 'below'), (101, -6, 'below');
-- == migrate
update stock set n = 0 where n < 0;
alter table stock add constraint stock_n check (n >= 0) not valid;
-- == migrate
alter table stock validate constraint stock_n;
-- == both
insert into stock values ({k}, {i}, {t})
update stock set n = {i} where id = {o}
update stock set name = {t} where id = {o}
delete from stock where id = {o}
-- == may be refused
stock
