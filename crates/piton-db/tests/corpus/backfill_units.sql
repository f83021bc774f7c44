-- An amount is counted in another unit.
-- == setup
create table price (id int primary key, amount int not null);
insert into price select i, i from generate_series(1, 30) i;
-- == quiet
amounts are a hundred times larger afterwards
-- == migrate
update price set amount = amount * 100;
-- == old
insert into price values ({k}, {n})
update price set amount = {n} where id = {o}
-- == refused
amount
