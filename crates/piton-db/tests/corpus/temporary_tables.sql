-- The app works in temporary tables, one of which has the name of a real one.
-- == setup
create table doc (id int primary key, v text);
insert into doc select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table doc rename v to w;
create table work (id int primary key);
-- == old
insert into doc values ({k}, {t})
-- == new
insert into doc values ({k}, {t})
-- was: insert into doc values ({k}, {t})
-- == both
create temp table work (id int primary key) on commit drop; insert into work select {k}; insert into doc select id, {t} from work; drop table work
create temp table doc (id int, v text) on commit drop; insert into doc values (7, {t}); drop table pg_temp.doc
delete from doc where id = {o}
