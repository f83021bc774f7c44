-- The app keeps large objects: no log tells of what is in them.
-- == setup
create table file (id int primary key, body oid, name text);
insert into file select i, lo_from_bytea(500000 + i, 'body'), 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table file add column size int;
-- == both
insert into file (id, body, name) values ({k}, lo_from_bytea(500000 + {k}, convert_to({t}, 'UTF8')), {t})
update file set name = {t} where id = {o}
delete from file where id = {o}
select lo_put(500000 + {o:lo}, 2, convert_to({t}, 'UTF8'))
-- == may be refused
large object
