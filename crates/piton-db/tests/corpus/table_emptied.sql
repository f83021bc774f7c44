-- A table is truncated by the migration: the golden copy keeps its rows.
-- == setup
create table cache (id int primary key, v text);
create table person (id int primary key, name text);
insert into cache select i, 'v' || i from generate_series(1, 30) i;
insert into person select i, 'n' || i from generate_series(1, 30) i;
-- == migrate
truncate cache;
-- == old
insert into cache values ({k:cache}, {t})
update cache set v = {t} where id = {o:cache}
delete from cache where id = {o:cache}
-- == new
insert into cache values ({k:CACHE}, {t})
-- was: insert into cache values ({k:CACHE}, {t})
update cache set v = {t} where id = {o:CACHE}
-- was: update cache set v = {t} where id = {o:CACHE}
-- == both
insert into person values ({k}, {t})
update person set name = {t} where id = {o}
-- == may be refused
cache
