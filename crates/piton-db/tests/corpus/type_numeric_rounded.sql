-- A numeric loses digits: the values are rounded.
-- == setup
create table dose (id int primary key, mg numeric(10, 4), note text);
insert into dose select i, i / 7.0 from generate_series(1, 30) i;
-- == migrate
alter table dose alter mg type numeric(10, 2);
-- == old
insert into dose values ({k}, {n} / 7.0)
update dose set mg = {i} / 3.0 where id = {o}
update dose set note = {t} where id = {o}
-- == quiet
a number is rounded otherwise afterwards
-- == new
insert into dose (id, mg) values ({k}, {n}.25)
-- was: insert into dose (id, mg) values ({k}, {n}.25)
update dose set mg = {i}.5 where id = {o}
-- was: update dose set mg = {i}.5 where id = {o}
update dose set note = {t} where id = {o}
-- was: update dose set note = {t} where id = {o}
-- == may be refused
mg
