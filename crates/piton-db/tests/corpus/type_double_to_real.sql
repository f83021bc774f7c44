-- A double becomes a real, which keeps seven digits.
-- == setup
create table probe (id int primary key, v double precision, note text);
insert into probe select i, 1.0 / i from generate_series(1, 30) i;
-- == migrate
alter table probe alter v type real;
-- == old
insert into probe values ({k}, {n} / 7.0)
update probe set v = 0.1 * {i} where id = {o}
update probe set note = {t} where id = {o}
-- == quiet
a number loses digits afterwards
-- == new
insert into probe (id, v) values ({k}, {i}.25)
-- was: insert into probe (id, v) values ({k}, {i}.25)
update probe set v = -{i}.5 where id = {o}
-- was: update probe set v = -{i}.5 where id = {o}
update probe set note = {t} where id = {o}
-- was: update probe set note = {t} where id = {o}
-- == may be refused
v
