-- A table is renamed, and another one is made under the old name: the name leads to the wrong one.
-- == setup
create table log (id int primary key, line text);
insert into log select i, 'l' || i from generate_series(1, 30) i;
-- == quiet
log is another table afterwards
-- == migrate
alter table log rename to log_old;
alter index log_pkey rename to log_old_pkey;
create table log (id int primary key, line text);
-- == old
insert into log values ({k}, {t})
update log set line = {t} where id = {o}
-- == new
insert into log_old values ({k}, {t})
-- was: insert into log values ({k}, {t})
update log_old set line = {t} where id = {o}
-- was: update log set line = {t} where id = {o}
delete from log_old where id = {o}
-- was: delete from log where id = {o}
insert into log values ({k:NEW}, {t})
-- was:
update log set line = {u} where id = {o:NEW}
-- was:
-- == may be refused
log
