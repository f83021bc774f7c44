-- An amount gets another name, another type and another unit.
-- == setup
create table price (id int primary key, amount numeric(10, 2) not null, note text, discount numeric(10, 2));
insert into price select i, i + 0.25, 'n' || i, case when i % 3 = 0 then i / 10.0 end from generate_series(1, 30) i;
-- == migrate
alter table price add column cents bigint, add column discount_cents int;
lock table price;
update price set cents = amount * 100, discount_cents = discount * 100;
alter table price alter cents set not null;
alter table price drop column amount, drop column discount;
-- == old
insert into price values ({k}, {n}, {t}, {i})
update price set amount = {n}.{i} where id = {o}
update price set discount = 0.{i}{j} where id = {o}
-- == new
insert into price (id, cents, note, discount_cents) values ({k}, {n} * 100 + {i}, {t}, {j})
-- was: insert into price values ({k}, {n} + {i} / 100.0, {t}, {j} / 100.0)
update price set cents = cents + 1 where id = {o}
-- was: update price set amount = amount + 0.01 where id = {o}
update price set discount_cents = null where id = {o}
-- was: update price set discount = null where id = {o}
-- == both
update price set note = {t} where id = {o}
delete from price where id = {o}
update price set id = {k} where id = {o}
-- == down
price.amount = cents / 100.0
public.price.discount = price.discount_cents / 100.0
