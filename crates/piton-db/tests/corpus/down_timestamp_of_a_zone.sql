-- Times of the clock in Berlin become points of time, and are told in Berlin again.
-- == setup
create table shift (id int primary key, at timestamp not null, n int);
insert into shift select i, timestamp '2026-05-28 22:00' + i * interval '17 min', i from generate_series(1, 30) i;
-- == migrate
alter table shift alter at type timestamptz using at at time zone 'Europe/Berlin';
-- == old
insert into shift values ({k}, timestamp '2026-07-01 00:00' + {n} * interval '1 s')
update shift set at = timestamp '2026-10-25 02:30' where id = {o}
-- == quiet
times are another type afterwards
-- == new
insert into shift values ({k}, timestamptz '2026-07-01 00:00+02' + {n} * interval '1 s')
-- was: insert into shift values ({k}, timestamp '2026-07-01 00:00' + {n} * interval '1 s')
update shift set at = timestamptz '2026-12-24 18:00:00.000001+01' where id = {o}
-- was: update shift set at = timestamp '2026-12-24 18:00:00.000001' where id = {o}
-- == both
update shift set n = {i} where id = {o}
update shift set at = 'infinity' where id = {o}
delete from shift where id = {o}
-- == down
shift.at = at at time zone 'Europe/Berlin'
