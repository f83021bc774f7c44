-- An amount is expanded, filled and contracted in files of their own; what is written in between is left to the end.
-- == setup
create table price (id int primary key, amount numeric(10, 2), note text);
insert into price select i, i + 0.5, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table price add column cents bigint;
-- == migrate
update price set cents = amount * 100;
-- == migrate
lock table price;
update price set cents = amount * 100;
alter table price drop column amount;
-- == old
insert into price (id, amount, note) values ({k}, {n}, {t})
update price set amount = {n}.{i} where id = {o}
-- == new
insert into price (id, cents, note) values ({k}, {n} * 100 + {i}, {t})
-- was: insert into price values ({k}, {n} + {i} / 100.0, {t})
update price set cents = cents + 1 where id = {o}
-- was: update price set amount = amount + 0.01 where id = {o}
-- == both
update price set note = {t} where id = {o}
delete from price where id = {o}
update price set id = {k} where id = {o}
-- == down
price.amount = cents / 100.0
