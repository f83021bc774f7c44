-- An amount gets another name and another unit: the name tells of the change, the values do as well.
-- == setup
create table price (id int primary key, amount numeric(10, 2) not null, note text);
insert into price select i, i, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table price add column cents bigint;
lock table price;
update price set cents = amount * 100;
alter table price alter cents set not null;
alter table price drop column amount;
-- == old
insert into price values ({k}, {n}, {t})
update price set amount = {n} where id = {o}
-- == refused
amount
