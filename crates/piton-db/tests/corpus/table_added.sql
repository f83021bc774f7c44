-- A table is added that refers to an old one; what is in it goes with the new structure.
-- == setup
create table customer (id int primary key, name text);
insert into customer select i, 'c' || i from generate_series(1, 30) i;
-- == migrate
create table address (id bigint generated always as identity primary key, customer_id int not null references customer on delete cascade, street text);
insert into address (customer_id, street) select id, name || ' street' from customer;
-- == old
insert into customer values ({k}, {t})
-- == both
update customer set name = {t} where id = {o}
delete from customer where id = {o}
-- == new
insert into customer values ({k}, {t}); insert into address (customer_id, street) values ({k}, {u})
-- was (other counts): insert into customer values ({k}, {t})
insert into address (customer_id, street) select id, {t} from customer where id = {o}
-- was:
update address set street = {t} where customer_id = {o}
-- was:
