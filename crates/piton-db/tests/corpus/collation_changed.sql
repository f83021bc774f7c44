-- A column is sorted in another way, and its key with it.
-- == setup
create table word (w text primary key, n int);
insert into word select 'w' || i, i from generate_series(1, 30) i;
-- == migrate
alter table word alter w type text collate "C";
alter table word alter n type bigint;
create index word_posix on word (w collate "POSIX");
-- == both
insert into word values ('ä{k}{s}', {i})
insert into word values ('w{k}', {i})
update word set n = {n} where w = 'w{o}'
update word set w = 'Z{k2}' where w = 'w{o}'
delete from word where w = 'w{o}'
