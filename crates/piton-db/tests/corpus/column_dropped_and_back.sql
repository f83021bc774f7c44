-- One revision drops a column, the next adds it again: the values are gone.
-- == setup
create table plan (id int primary key, price numeric, name text);
insert into plan select i, i / 3.0, 'n' || i from generate_series(1, 30) i;
-- == quiet
what the old app would read is gone
-- == migrate
alter table plan drop column price;
-- == migrate
alter table plan add column price numeric;
-- == old
insert into plan values ({k}, {n} / 7.0, {t})
update plan set price = {n} where id = {o}
-- == new
insert into plan (id, price, name) values ({k}, {n}, {t})
-- was: insert into plan (id, price, name) values ({k}, {n}, {t})
update plan set name = {t} where id = {o}
-- was: update plan set name = {t} where id = {o}
delete from plan where id = {o}
-- was: delete from plan where id = {o}
-- == may be refused
price
