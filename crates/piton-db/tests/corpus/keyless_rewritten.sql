-- A table without a key is written anew by the migration.
-- == setup
create table price (item int, amount int);
alter table price replica identity full;
insert into price select i, i from generate_series(1, 30) i;
-- == quiet
amounts are counted in cents afterwards
-- == migrate
update price set amount = amount * 100;
-- == old
insert into price values ({k}, {i})
update price set amount = {n} where item = {o}
-- == refused
price
