-- A table that the log knew nothing of is logged from now on.
-- == setup
create unlogged table buffer (id int primary key, v text);
create table kept (id int primary key, v text);
insert into buffer select i, 's' || i from generate_series(1, 30) i;
insert into kept select i, 'k' || i from generate_series(1, 30) i;
-- == migrate
alter table buffer set logged;
-- == both
insert into buffer values ({k:buffer}, {t})
update buffer set v = {t} where id = {o:buffer}
insert into kept (id, v) values ({k}, {t})
update kept set v = {t} where id = {o}
