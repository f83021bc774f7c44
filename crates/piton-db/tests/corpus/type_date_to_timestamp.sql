-- Days become times of the clock, at midnight.
-- == setup
create table holiday (id int primary key, day date, name text);
insert into holiday select i, date '2026-01-01' + i, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table holiday alter day type timestamp;
-- == both
insert into holiday values ({k}, date '2026-05-01' + {i}, {t})
update holiday set day = date '1999-12-31' - {n} where id = {o}
update holiday set day = 'infinity', name = {t} where id = {o}
delete from holiday where id = {o}
-- == new
insert into holiday values ({k:NOON}, timestamp '2026-05-01 12:00' + {i} * interval '1 min', {t})
-- was:
-- == aside
public.holiday
-- == may be refused
day
