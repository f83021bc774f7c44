-- A column is filled from another table, and both go on being written.
-- == setup
create table customer (id int primary key, name text);
create table bill (id int primary key, customer int, total int);
insert into customer select i, 'c' || i from generate_series(1, 30) i;
insert into bill select i, i, i from generate_series(1, 30) i;
-- == migrate
alter table bill add column customer_name text;
-- == migrate
update bill b set customer_name = c.name from customer c where c.id = b.customer;
-- == both
insert into customer values ({k}, {t})
update customer set name = {t} where id = {o}
insert into bill (id, customer, total) values ({k:bill}, {o}, {n})
update bill set total = {n} where id = {o:bill}
delete from bill where id = {o:bill}
-- == new
update bill set customer_name = {t} where id = {o:bill}
-- was: update bill set total = total where id = {o:bill}
