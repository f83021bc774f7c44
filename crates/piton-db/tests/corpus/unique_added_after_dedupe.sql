-- Rows that are there twice are deleted, and a unique index is made.
-- == setup
create table mail (id int primary key, address text, note text);
insert into mail select i, 'a' || i, 'n' || i from generate_series(1, 30) i;
insert into mail select 100 + i, 'a' || i, 'double' from generate_series(1, 10) i;
-- == migrate
delete from mail a using mail b where a.address = b.address and a.id > b.id;
create unique index mail_address on mail (address);
-- == both
insert into mail values ({k}, 'a{k}', {t})
update mail set note = {t} where id = {o}
update mail set address = 'b{k2}' where id = {o}
delete from mail where id = {o}
