-- Points of time become days: the hours are gone.
-- == setup
create table due (id int primary key, at timestamptz, note text);
insert into due select i, timestamptz '2026-01-01 08:00+00' + i * interval '5 h', 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table due alter at type date using (at at time zone 'UTC')::date;
-- == old
insert into due values ({k}, timestamptz '2026-06-01 12:00+00' + {n} * interval '1 s', {t})
update due set note = {t} where id = {o}
-- == quiet
a time loses its hours afterwards
-- == new
insert into due values ({k}, date '2026-06-01' + {i}, {t})
-- was: insert into due values ({k}, timestamptz '2026-06-01 00:00+00' + {i} * interval '1 day', {t})
update due set note = {t} where id = {o}
-- was: update due set note = {t} where id = {o}
-- == may be refused
at
