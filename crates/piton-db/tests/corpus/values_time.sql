-- Times before Christ, at infinity, with and without zones, of leap seconds and long intervals.
-- == setup
create table tm (id int primary key, a timestamptz, b timestamp, c date, d time, e timetz, f interval, g tstzrange);
insert into tm select i, '2026-01-01', '2026-01-01', '2026-01-01', '10:00', '10:00+02', '1 day', '[2026-01-01,2026-01-02)' from generate_series(1, 30) i;
-- == migrate
alter table tm rename a to moment;
alter table tm add column h interval;
-- == old
update tm set a = (array['-infinity', 'infinity', '4713-01-01 00:00+00 BC', '294276-12-31 23:59:59.999999+00', '2026-03-29 02:30 Europe/Berlin', '1900-01-01 00:00 LMT'])[1 + {i} % 5]::timestamptz where id = {o}
-- == new
update tm set moment = (array['-infinity', 'infinity', '4713-01-01 00:00+00 BC', '294276-12-31 23:59:59.999999+00', '2026-03-29 02:30 Europe/Berlin'])[1 + {i} % 5]::timestamptz where id = {o}
-- was: update tm set a = (array['-infinity', 'infinity', '4713-01-01 00:00+00 BC', '294276-12-31 23:59:59.999999+00', '2026-03-29 02:30 Europe/Berlin'])[1 + {i} % 5]::timestamptz where id = {o}
-- == both
set local timezone = 'Asia/Kathmandu'; set local datestyle = 'German'; set local intervalstyle = 'iso_8601'; set local extra_float_digits = -15; insert into tm (id, b, c, f) values ({k}, timestamp '2026-02-03 04:05:06' + {n} * interval '1.000001 s', date '2026-03-02' + {i}, interval '1 year 2 mons -3 days 04:05:06.789')
update tm set c = (array['-infinity', 'infinity', '5874897-12-31', '0001-02-28 BC'])[1 + {i} % 4]::date where id = {o}
update tm set d = (array['24:00', '00:00:00.000001', '23:59:60'])[1 + {i} % 3]::time, e = (array['24:00-15:59', '00:00+15:59:59', '10:00:00.5-08'])[1 + {j} % 3]::timetz where id = {o}
update tm set f = (array['178000000 years', '-1 mons +1 day -00:00:01', '00:00', '-0.000001 s'])[1 + {i} % 4]::interval where id = {o}
update tm set g = tstzrange(null, timestamptz '2026-05-05 00:00+00' + {n} * interval '1 s', '[]'), id = {k} where id = {o}
delete from tm where id = {o}
