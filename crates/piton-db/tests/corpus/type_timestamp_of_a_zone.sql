-- Times of the clock in Berlin become points of time; back in UTC they would be other times.
-- == setup
create table shift (id int primary key, at timestamp not null);
insert into shift select i, timestamp '2026-03-28 22:00' + i * interval '17 min' from generate_series(1, 30) i;
-- == migrate
alter table shift alter at type timestamptz using at at time zone 'Europe/Berlin';
-- == old
insert into shift values ({k}, timestamp '2026-07-01 00:00' + {n} * interval '1 s')
update shift set at = timestamp '2026-10-25 02:30' where id = {o}
-- == refused
at
