-- A table that the log knows nothing of: what is in it is copied at the end.
-- == setup
create unlogged table scratch (id int primary key, v text);
create table kept (id int primary key, v text);
insert into scratch select i, 's' || i from generate_series(1, 30) i;
insert into kept select i, 'k' || i from generate_series(1, 30) i;
-- == migrate
alter table kept add column w text;
-- == both
insert into scratch values ({k:scratch}, {t})
update scratch set v = {t} where id = {o:scratch}
insert into kept (id, v) values ({k}, {t})
update kept set v = {t} where id = {o}
delete from kept where id = {o}
