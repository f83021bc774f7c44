-- Sequences are renamed, given to another column, moved to another schema.
-- == setup
create sequence numbers start 100;
create sequence down increment -1 maxvalue 0 start 0 minvalue -100000;
create table bill (id int primary key, number int default nextval('numbers'), below int default nextval('down'), v text);
insert into bill (id, v) select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
create schema books;
alter sequence numbers rename to bill_numbers;
alter sequence bill_numbers owned by bill.number;
alter sequence down set schema books;
alter sequence books.down cycle;
-- == both
insert into bill (id, v) values ({k}, {t})
update bill set v = {t} where id = {o}
delete from bill where id = {o}
-- == check
select id, v from bill
select count(distinct number) = count(*) from bill
