-- The app empties a partition, and a table that has others below it.
-- == setup
create table log (id int, w int, v text) partition by list (w);
create table log_0 partition of log for values in (0);
create table log_1 partition of log for values in (1);
create table log_2 partition of log for values in (2);
alter table log_0 add primary key (id);
alter table log_1 add primary key (id);
alter table log_2 add primary key (id);
create table up_0 (id int primary key, v text);
create table up_1 (id int primary key, v text);
create table up_2 (id int primary key, v text);
create table below_0 (primary key (id)) inherits (up_0);
create table below_1 (primary key (id)) inherits (up_1);
create table below_2 (primary key (id)) inherits (up_2);
-- == migrate
alter table log rename v to value;
alter table log rename to journal;
-- == old
insert into log values ({k}, {w}, {t})
update log set v = {t} where id = {o} and w = {w}
-- == new
insert into journal values ({k}, {w}, {t})
-- was: insert into log values ({k}, {w}, {t})
update journal set value = {t} where id = {o} and w = {w}
-- was: update log set v = {t} where id = {o} and w = {w}
truncate log_{w}; insert into log_{w} values ({k}, {w}, {t})
-- was: truncate log_{w}; insert into log_{w} values ({k}, {w}, {t})
truncate only up_{w}; insert into up_{w} values ({k}, {t})
-- was: truncate only up_{w}; insert into up_{w} values ({k}, {t})
-- == both
insert into up_{w} values ({k}, {t})
insert into below_{w} values ({k}, {t})
-- == may be refused
log
