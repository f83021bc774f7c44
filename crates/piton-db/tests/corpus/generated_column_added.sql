-- Columns that the server computes are added.
-- == setup
create table line (id int primary key, price numeric, amount int);
insert into line select i, i / 3.0, i from generate_series(1, 30) i;
-- == migrate
alter table line add column total numeric generated always as (price * amount) stored;
alter table line add column tag text generated always as ('l' || id) stored;
-- == both
insert into line (id, price, amount) values ({k}, {n} / 100.0, {i})
update line set price = {n} where id = {o}
update line set amount = null where id = {o}
update line set id = {k} where id = {o}
delete from line where id = {o}
