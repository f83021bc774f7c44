-- A column is renamed.
-- == setup
create table person (id int primary key, name text, born date);
insert into person select i, 'p' || i, date '1990-01-01' + i from generate_series(1, 30) i;
-- == migrate
alter table person rename column name to full_name;
-- == old
insert into person values ({k}, {t}, date '2000-01-01' + {i})
update person set name = {t} where id = {o}
update person set born = null, name = null where id = {o}
-- == new
insert into person (id, full_name) values ({k}, {t})
-- was: insert into person (id, name) values ({k}, {t})
update person set full_name = {t} where id = {o}
-- was: update person set name = {t} where id = {o}
-- == both
delete from person where id = {o}
update person set born = date '2001-02-03' + {i} where id = {o}
