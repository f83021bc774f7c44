-- A numeric gets more digits on both sides; the old structure would round them.
-- == setup
create table price (id int primary key, amount numeric(8, 2), rate numeric(6, 3));
insert into price select i, i / 3.0, i / 7.0 from generate_series(1, 30) i;
-- == migrate
alter table price alter amount type numeric(12, 4), alter rate type numeric;
-- == old
insert into price values ({k}, round({n} / 100.0, 2), round({i} / 7.0, 3))
update price set amount = -round({n} / 100.0, 2) where id = {o}
-- == new
insert into price values ({k}, round({n} / 100.0, 2), round({i} / 7.0, 3))
-- was: insert into price values ({k}, round({n} / 100.0, 2), round({i} / 7.0, 3))
update price set amount = -round({n} / 100.0, 2) where id = {o}
-- was: update price set amount = -round({n} / 100.0, 2) where id = {o}
insert into price values ({k:FINE}, {n}.1234, null)
-- was:
-- == both
update price set rate = null where id = {o}
delete from price where id = {o}
-- == aside
public.price
-- == may be refused
amount
