-- A double becomes a real, which keeps seven digits.
-- == setup
create table probe (id int primary key, v double precision);
insert into probe select i, 1.0 / i from generate_series(1, 30) i;
-- == migrate
alter table probe alter v type real;
-- == old
insert into probe values ({k}, {n} / 7.0)
update probe set v = 0.1 * {i} where id = {o}
-- == refused
v
