-- Times of the clock in UTC become points of time.
-- == setup
create table login (id int primary key, at timestamp, note text);
insert into login select i, timestamp '2026-03-29 01:30' + i * interval '7 min', 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table login alter at type timestamptz using at at time zone 'UTC';
-- == old
insert into login values ({k}, timestamp '2026-03-29 00:00' + {n} * interval '1.000001 s', {t})
update login set at = timestamp '2026-10-25 02:30' + {i} * interval '1 h' where id = {o}
-- == new
insert into login values ({k}, timestamptz '2026-03-29 00:00+00' + {n} * interval '1.000001 s', {t})
-- was: insert into login values ({k}, timestamp '2026-03-29 00:00' + {n} * interval '1.000001 s', {t})
update login set at = timestamptz '2026-10-25 02:30+00' + {i} * interval '1 h' where id = {o}
-- was: update login set at = timestamp '2026-10-25 02:30' + {i} * interval '1 h' where id = {o}
-- == both
update login set note = {t} where id = {o}
update login set at = '-infinity' where id = {o}
delete from login where id = {o}
-- == quiet
a time that is left to the session's zone is another one
-- == may be refused
at
