-- Keys in which equal values have several texts: numeric, citext, timestamptz, float, char(n).
-- == setup
create extension citext;
create table n (id numeric primary key, v text);
create table c (id citext primary key, v text);
create table z (id timestamptz primary key, v text);
create table f (id double precision primary key, v text);
create table p (id char(12) primary key, v text);
insert into n select i, 'v' from generate_series(1, 30) i;
insert into c select 'Key' || i, 'v' from generate_series(1, 30) i;
insert into z select timestamptz '2026-01-01 00:00+02' + i * interval '1 min', 'v' from generate_series(1, 30) i;
insert into f select i, 'v' from generate_series(0, 30) i;
insert into p select 'k' || i, 'v' from generate_series(1, 30) i;
-- == migrate
alter table n rename v to w;
alter table c add column x int;
alter table z rename to zz;
alter table f add column x int default 5;
alter table p rename v to w;
-- == old
insert into n values ({k}.00, {t})
insert into z values (timestamptz '2026-01-01 00:00+02' + {k} * interval '1 min', {t}); insert into p values ('k{k}', {t})
update n set id = {o}.000, v = {t} where id = {o}
update z set v = {t} where id = timestamptz '2026-01-01 00:00+02' + {o} * interval '1 min'
update p set v = {t} where id = 'k{o}'
-- == new
insert into n values ({k}.0, {t})
-- was: insert into n values ({k}.0, {t})
insert into zz values (timestamptz '2026-01-01 00:00+02' + {k} * interval '1 min', {t}); insert into p values ('k{k}', {t})
-- was: insert into z values (timestamptz '2026-01-01 00:00+02' + {k} * interval '1 min', {t}); insert into p values ('k{k}', {t})
update n set id = {o}.0, w = {t} where id = {o}
-- was: update n set id = {o}.0, v = {t} where id = {o}
update zz set v = {t} where id = timestamptz '2026-01-01 00:00+02' + {o} * interval '1 min'
-- was: update z set v = {t} where id = timestamptz '2026-01-01 00:00+02' + {o} * interval '1 min'
update p set w = {t} where id = 'k{o}'
-- was: update p set v = {t} where id = 'k{o}'
-- == both
insert into c (id, v) values ('kEy{k}', {t})
update c set v = {t} where id = 'key{o}'
update c set id = upper(id) where id = 'key{o}'
insert into f (id, v) values ({k}, {t})
update f set id = '-0', v = {t} where id = 0 and {w} = 0
update f set id = 0, v = {u} where id = 0 and {w} = 0
delete from c where id = 'KEY{o}'
