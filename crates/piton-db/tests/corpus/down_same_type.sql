-- A column is written anew in another unit by a change of its type to what it was.
-- == setup
create table price (id int primary key, amount int not null, note text);
insert into price select i, i, 'n' || i from generate_series(1, 30) i;
-- == quiet
amounts are a hundred times larger afterwards
-- == migrate
alter table price alter amount type int using amount * 100;
-- == old
insert into price values ({k}, {n})
update price set amount = {n} where id = {o}
-- == new
insert into price values ({k}, {n} * 100, {t})
-- was: insert into price values ({k}, {n}, {t})
update price set amount = amount + 700 where id = {o}
-- was: update price set amount = amount + 7 where id = {o}
-- == both
update price set note = {t} where id = {o}
delete from price where id = {o}
-- == down
price.amount = amount / 100
