-- A partition leaves its table and lives on by itself.
-- == setup
create table log (id int, day date, v text, primary key (id, day)) partition by range (day);
create table log_2025 partition of log for values from ('2025-01-01') to ('2026-01-01');
create table log_2026 partition of log for values from ('2026-01-01') to ('2027-01-01');
insert into log select i, '2025-05-05', 'old' || i from generate_series(1, 30) i;
insert into log select i, '2026-05-05', 'new' || i from generate_series(1, 30) i;
-- == migrate
alter table log detach partition log_2025;
-- == both
insert into log values ({k}, date '2026-03-01' + {i}, {t})
update log_2025 set v = {t} where id = {o}
update log_2026 set v = {t} where id = {o}
delete from log_2025 where id = {o}
-- == new
insert into log_2025 values ({k}, date '2025-03-01' + {i}, {t})
-- was: insert into log values ({k}, date '2025-03-01' + {i}, {t})
