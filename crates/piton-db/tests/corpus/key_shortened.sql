-- A column leaves a key of two.
-- == setup
create table stock (place int, item int, n int, primary key (place, item));
insert into stock select 1, i, i from generate_series(1, 30) i;
-- == migrate
alter table stock drop constraint stock_pkey, add primary key (item);
-- == both
insert into stock values (1, {k}, {i})
update stock set n = {i} where item = {o}
update stock set place = {i} where item = {o}
delete from stock where item = {o}
-- == may be refused
stock
