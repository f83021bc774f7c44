-- The migration gives all rows other keys.
-- == setup
create table person (id int primary key, name text);
insert into person select i, 'p' || i from generate_series(1, 30) i;
-- == quiet
the keys are other ones afterwards
-- == migrate
update person set id = -id;
-- == old
insert into person values ({k}, {t})
update person set name = {t} where id = {o}
-- == refused
person
