-- Points of time become times of the clock in UTC.
-- == setup
create table ping (id int primary key, at timestamptz, n int);
insert into ping select i, timestamptz '2026-01-01 00:00+00' + i * interval '1 day 1.5 s', i from generate_series(1, 30) i;
-- == migrate
alter table ping alter at type timestamp using at at time zone 'UTC';
-- == old
insert into ping values ({k}, timestamptz '2026-06-01 12:00+02' + {n} * interval '1 s', {i})
update ping set at = timestamptz '2026-12-31 23:59:59.999999+00' where id = {o}
-- == new
insert into ping values ({k}, timestamp '2026-06-01 10:00' + {n} * interval '1 s', {i})
-- was: insert into ping values ({k}, timestamptz '2026-06-01 12:00+02' + {n} * interval '1 s', {i})
update ping set at = timestamp '2026-12-31 23:59:59.999999' where id = {o}
-- was: update ping set at = timestamptz '2026-12-31 23:59:59.999999+00' where id = {o}
-- == both
update ping set n = {i} where id = {o}
update ping set at = 'infinity' where id = {o}
delete from ping where id = {o}
-- == quiet
a time that is left to the session's zone is another one
-- == may be refused
at
