-- A table is written anew without a change: CLUSTER, VACUUM FULL, REINDEX, one by one.
-- == setup
create table heap (id int primary key, v text, n int);
create index heap_n on heap (n);
insert into heap select i, 'v' || i, 30 - i from generate_series(1, 30) i;
-- == migrate
cluster heap using heap_n;
vacuum full heap;
reindex table concurrently heap;
alter table heap set (fillfactor = 70);
-- == both
insert into heap values ({k}, {t}, {i})
update heap set v = {t} where id = {o}
update heap set n = {i}, id = {k} where id = {o}
delete from heap where id = {o}
