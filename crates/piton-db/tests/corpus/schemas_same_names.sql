-- Two schemas have tables of the same names, and exchange them.
-- == setup
create schema one;
create schema two;
create table one.t (id int primary key, v text);
create table two.t (id int primary key, v text, w text);
insert into one.t select i, 'one' || i from generate_series(1, 30) i;
insert into two.t select i, 'two' || i, 'w' from generate_series(1, 30) i;
-- == quiet
one.t and two.t are exchanged afterwards
-- == migrate
create schema three;
alter table one.t set schema three;
alter table two.t set schema one;
alter table three.t set schema two;
drop schema three;
-- == old
insert into one.t values ({k}, {t})
update one.t set v = {t} where id = {o}
update two.t set v = {t}, w = {u} where id = {o:two}
-- == new
insert into two.t values ({k}, {t})
-- was: insert into one.t values ({k}, {t})
update two.t set v = {t} where id = {o}
-- was: update one.t set v = {t} where id = {o}
update one.t set v = {t}, w = {u} where id = {o:two}
-- was: update two.t set v = {t}, w = {u} where id = {o:two}
delete from one.t where id = {o:two}
-- was: delete from two.t where id = {o:two}
insert into one.t values ({k:two}, {t}, {u})
-- was: insert into two.t values ({k:two}, {t}, {u})
-- == may be refused
t
