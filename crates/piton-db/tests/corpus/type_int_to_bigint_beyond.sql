-- A column becomes bigint, and the app writes what an int does not hold.
-- == setup
create table meter (id int primary key, total int not null);
insert into meter select i, i from generate_series(1, 30) i;
-- == migrate
alter table meter alter total type bigint;
-- == both
insert into meter values ({k}, {n})
update meter set total = {n} where id = {o}
delete from meter where id = {o}
-- == new
insert into meter values ({k:LARGE}, 3000000000 + {n})
-- was:
insert into meter values ({k:BACK}, 4000000000); update meter set total = {n} where id = {k:BACK}
-- was (other counts): insert into meter values ({k:BACK}, {n})
-- == aside
public.meter
