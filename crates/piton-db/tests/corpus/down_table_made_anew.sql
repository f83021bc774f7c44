-- A table is made anew with its amounts in another unit, and takes the old one's name.
-- == setup
create table price (id int primary key, amount int not null, note text);
insert into price select i, i, 'n' || i from generate_series(1, 30) i;
-- == quiet
amounts are a hundred times larger afterwards
-- == migrate
create table price_new (id int primary key, note text, amount bigint not null);
insert into price_new select id, note, amount * 100 from price;
drop table price;
alter table price_new rename to price;
alter index price_new_pkey rename to price_pkey;
-- == old
insert into price (id, amount) values ({k}, {n})
update price set amount = {n} where id = {o}
-- == new
insert into price (id, amount, note) values ({k}, {n} * 100, {t})
-- was: insert into price values ({k}, {n}, {t})
update price set amount = amount + 700 where id = {o}
-- was: update price set amount = amount + 7 where id = {o}
-- == both
update price set note = {t} where id = {o}
delete from price where id = {o}
-- == down
price.amount = amount / 100
