-- A serial loses its sequence, and the app counts by itself.
-- == setup
create table item (id serial primary key, v text, writer int);
insert into item (v, writer) select 'v' || i, i % 3 from generate_series(1, 30) i;
-- == migrate
alter table item alter id drop default;
drop sequence item_id_seq;
-- == old
insert into item (v, writer) values ({t}, {w})
-- == new
insert into item (id, v, writer) values (1000000 + {k}, {t}, {w})
-- was: insert into item (v, writer) values ({t}, {w})
-- == both
update item set v = {t} || '{n}' where id = (select min(id) from item where writer = {w})
-- == check
select v, writer from item
