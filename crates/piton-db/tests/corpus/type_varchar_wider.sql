-- A varchar may be longer, and some rows are.
-- == setup
create table city (id int primary key, name varchar(8), note text);
insert into city select i, 'c' || i, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table city alter name type varchar(40);
-- == both
insert into city values ({k}, '{s}', {t})
update city set name = '{s}{i}' where id = {o}
update city set note = {t} where id = {o}
delete from city where id = {o}
-- == new
insert into city values ({k:LONG}, repeat('long ', 7), {t})
-- was:
insert into city values ({k:SHORT}, repeat('long ', 7), null); update city set name = '{s}' where id = {k:SHORT}
-- was (other counts): insert into city values ({k:SHORT}, '{s}', null)
-- == aside
public.city
