-- A computed column becomes an ordinary one, into which the app writes by itself.
-- == setup
create table line (id int primary key, price int, double int generated always as (price * 2) stored);
insert into line select i, i from generate_series(1, 30) i;
-- == migrate
alter table line alter column double drop expression;
-- == old
insert into line (id, price) values ({k}, {n})
update line set price = {n} where id = {o}
-- == new
insert into line (id, price, double) values ({k}, {n}, {n} * 2)
-- was: insert into line (id, price) values ({k}, {n})
update line set price = {n}, double = {n} * 2 where id = {o}
-- was: update line set price = {n} where id = {o}
-- == both
delete from line where id = {o}
-- == may be refused
double
