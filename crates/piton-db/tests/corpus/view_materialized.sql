-- Materialized views come, go and are refreshed.
-- == setup
create table sale (id int primary key, shop int, amount int);
insert into sale select i, i % 5, i from generate_series(1, 30) i;
create materialized view totals as select shop, sum(amount) as total from sale group by shop;
-- == migrate
drop materialized view totals;
create materialized view totals as select shop, sum(amount) as total, count(*) as n from sale group by shop;
create unique index totals_shop on totals (shop);
create materialized view largest as select max(amount) from sale;
-- == both
insert into sale values ({k}, {i}, {n})
update sale set amount = {n} where id = {o}
delete from sale where id = {o}
-- == new
update sale set shop = {i} where id = {o}; refresh materialized view totals
-- was: update sale set shop = {i} where id = {o}
insert into sale values ({k}, {i}, {n}); refresh materialized view largest
-- was (other counts): insert into sale values ({k}, {i}, {n})
