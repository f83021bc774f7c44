-- The migration deletes rows, and the app makes some of them again under the same keys.
-- == setup
create table cache (id int primary key, v text, dead bool not null default false);
insert into cache select i, 'v' || i, false from generate_series(1, 30) i;
insert into cache select 300000 + i, 'dead' || i, true from generate_series(1, 30) i;
-- == migrate
delete from cache where dead;
-- == both
insert into cache values ({k}, {t})
update cache set v = {t} where id = {o}
delete from cache where id = {o}
-- == new
insert into cache values (300000 + {o:again}, {t}, false) on conflict (id) do update set v = excluded.v
-- was: insert into cache values (300000 + {o:again}, {t}, false) on conflict (id) do update set v = excluded.v, dead = excluded.dead
