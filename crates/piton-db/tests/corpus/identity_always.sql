-- A key without a default becomes an identity that only the server fills.
-- == setup
create table invoice (id bigint primary key, note text, writer int);
insert into invoice select i, 'n' || i, i % 3 from generate_series(1, 30) i;
create sequence invoice_numbers start 1000;
-- == migrate
alter table invoice alter id add generated always as identity (start with 2000000);
drop sequence invoice_numbers;
-- == old
insert into invoice values (nextval('invoice_numbers'), {t}, {w})
-- == new
insert into invoice (note, writer) values ({t}, {w})
-- was: insert into invoice values (nextval('invoice_numbers'), {t}, {w})
-- == both
update invoice set note = {t} where id = (select min(id) from invoice where writer = {w})
delete from invoice where id = (select min(id) from invoice where writer = {w} and id > 30)
-- == sequences apart
public.invoice_numbers
-- == check
select writer, note from invoice
-- == may be refused
invoice
