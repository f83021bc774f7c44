-- A table is made anew under lock, filled from the old one, and takes its name.
-- == setup
create table reading (id int primary key, device int, v text);
create index reading_device on reading (device);
insert into reading select i, i % 5, 'v' || i from generate_series(1, 30) i;
-- == migrate
lock table reading;
create table reading_new (id bigint primary key, device int not null default 0, v text, at timestamptz);
insert into reading_new (id, device, v) select id, device, v from reading;
drop table reading;
alter table reading_new rename to reading;
-- == both
insert into reading (id, device, v) values ({k}, {i}, {t})
update reading set v = {t} where id = {o}
update reading set device = {i}, id = {k} where id = {o}
delete from reading where id = {o}
