-- Tables and columns called as Piton's own might be.
-- == setup
create schema replay;
create table piton_own (key text primary key, place text, inserted bool, filled text);
create table replay.aside (place text, key text, why text, primary key (place, key));
insert into piton_own select 'k' || i, 'p', false, '{}' from generate_series(1, 30) i;
-- == migrate
alter table piton_own rename place to at;
alter table replay.aside rename why to because;
-- == old
insert into piton_own values ('k{k}', {t}, true, {u})
insert into replay.aside values ({t}, 'k{k}', {u})
-- == new
insert into piton_own values ('k{k}', {t}, true, {u})
-- was: insert into piton_own values ('k{k}', {t}, true, {u})
update piton_own set at = {t} where key = 'k{o}'
-- was: update piton_own set place = {t} where key = 'k{o}'
insert into replay.aside (place, key, because) values ({t}, 'k{k}', {u})
-- was: insert into replay.aside values ({t}, 'k{k}', {u})
-- == both
update piton_own set filled = {t} where key = 'k{o}'
delete from piton_own where key = 'k{o}'
