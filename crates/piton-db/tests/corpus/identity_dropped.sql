-- An identity is taken away, and the app makes its keys.
-- == setup
create table event (id int generated always as identity primary key, body text, writer int);
insert into event (body, writer) select 'e' || i, i % 3 from generate_series(1, 30) i;
-- == migrate
alter table event alter id drop identity;
-- == old
insert into event (body, writer) values ({t}, {w})
-- == new
insert into event (id, body, writer) values ({k} + 100000, {t}, {w})
-- was: insert into event (id, body, writer) overriding system value values ({k} + 100000, {t}, {w})
-- == both
update event set body = {t} || '{n}' where id = (select min(id) from event where writer = {w})
delete from event where id = (select min(id) from event where writer = {w})
-- == check
select writer, body from event
