-- What the app writes meets what is there: ON CONFLICT and MERGE.
-- == setup
create table kv (k int primary key, v text, n int not null default 0);
insert into kv select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table kv add column at timestamptz default now();
alter table kv rename v to value;
-- == old
insert into kv (k, v) values ({o}, {t}) on conflict (k) do update set v = excluded.v, n = kv.n + 1
insert into kv (k, v) values ({k}, {t}) on conflict do nothing
merge into kv using (values ({o}, {t}), ({k}, {u})) s (k, v) on s.k = kv.k when matched and kv.n > 5 then delete when matched then update set v = s.v when not matched then insert (k, v) values (s.k, s.v)
-- == new
insert into kv (k, value) values ({o}, {t}) on conflict (k) do update set value = excluded.value, n = kv.n + 1
-- was: insert into kv (k, v) values ({o}, {t}) on conflict (k) do update set v = excluded.v, n = kv.n + 1
insert into kv (k, value) values ({k}, {t}) on conflict do nothing
-- was: insert into kv (k, v) values ({k}, {t}) on conflict do nothing
merge into kv using (values ({o}, {t}), ({k}, {u})) s (k, v) on s.k = kv.k when matched and kv.n > 5 then delete when matched then update set value = s.v when not matched then insert (k, value) values (s.k, s.v)
-- was: merge into kv using (values ({o}, {t}), ({k}, {u})) s (k, v) on s.k = kv.k when matched and kv.n > 5 then delete when matched then update set v = s.v when not matched then insert (k, v) values (s.k, s.v)
-- == both
delete from kv where k = {o}
update kv set n = n + 1 where k in ({o}, {p})
