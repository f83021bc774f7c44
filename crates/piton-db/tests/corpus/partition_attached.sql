-- A table becomes a partition of another.
-- == setup
create table log (id int, day date, v text, primary key (id, day)) partition by range (day);
create table log_2025 partition of log for values from ('2025-01-01') to ('2026-01-01');
create table log_2026 (id int not null, day date not null, v text, primary key (id, day));
insert into log select i, '2025-05-05', 'old' || i from generate_series(1, 30) i;
insert into log_2026 select i, '2026-05-05', 'new' || i from generate_series(1, 30) i;
-- == migrate
alter table log attach partition log_2026 for values from ('2026-01-01') to ('2027-01-01');
-- == both
insert into log values ({k}, date '2025-03-01' + {i}, {t})
insert into log_2026 values ({k}, date '2026-03-01' + {i}, {t})
update log_2026 set v = {t} where id = {o}
delete from log_2026 where id = {o}
-- == new
insert into log values ({k}, date '2026-03-01' + {i}, {t})
-- was: insert into log_2026 values ({k}, date '2026-03-01' + {i}, {t})
update log set v = {t} where id = {o} and day >= '2026-01-01'
-- was: update log_2026 set v = {t} where id = {o}
update log set day = day + 365 where id = {o} and day between '2025-01-01' and '2025-12-30'
-- was (other counts): insert into log_2026 select id, day + 365, v from log where id = {o}; delete from log where id = {o}
