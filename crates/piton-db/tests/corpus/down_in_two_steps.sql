-- Amounts are multiplied twice in files of their own: what is written in between is left to the end.
-- == setup
create table price (id int primary key, amount int not null, note text);
insert into price select i, i, 'n' || i from generate_series(1, 30) i;
-- == migrate
update price set amount = amount * 10;
-- == migrate
update price set amount = amount * 10;
-- == old
update price set note = {t} || 'o' where id = {o}
-- == new
insert into price values ({k}, {n} * 100, {t})
-- was: insert into price values ({k}, {n}, {t})
update price set amount = {n} * 100 where id = {o}
-- was: update price set amount = {n} where id = {o}
-- == both
update price set note = {t} where id = {o}
delete from price where id = {o}
update price set id = {k} where id = {o}
-- == down
price.amount = amount / 100
