-- The migration gives some rows other keys, and nobody else touches these.
-- == setup
create table person (id int primary key, name text);
insert into person select i, 'p' || i from generate_series(1, 40) i;
-- == migrate
update person set id = id + 1000000 where id between 31 and 40;
-- == both
insert into person values ({k}, {t})
update person set name = {t} where id = {o}
delete from person where id = {o}
-- == may be refused
person
