-- A partition leaves its table without a lock, and is dropped by the next revision.
-- == setup
create table log (id int, day date, v text, primary key (id, day)) partition by range (day);
create table log_2024 partition of log for values from ('2024-01-01') to ('2025-01-01');
create table log_2025 partition of log for values from ('2025-01-01') to ('2026-01-01');
insert into log select i, '2024-05-05', 'old' || i from generate_series(1, 30) i;
insert into log select i, '2025-05-05', 'new' || i from generate_series(1, 30) i;
-- == migrate
alter table log detach partition log_2024 concurrently;
-- == migrate
drop table log_2024;
-- == old
update log set v = {t} where id = {o} and day < '2025-01-01'
-- == both
insert into log values ({k}, date '2025-03-01' + {i}, {t})
update log set v = {t} where id = {o} and day >= '2025-01-01'
delete from log where id = {o} and day >= '2025-01-01'
-- == new
update log set v = {t}, day = date '2025-12-01' + {i} where id = {o}
-- was (other counts): update log set v = {t}, day = date '2025-12-01' + {i} where id = {o} and day >= '2025-01-01'
