-- A unique index goes, and values are there twice.
-- == setup
create table slug (id int primary key, name text);
create unique index slug_name on slug (name);
insert into slug select i, 's' || i from generate_series(1, 30) i;
insert into slug values (100, 'taken');
-- == migrate
drop index slug_name;
create index slug_name on slug (name);
-- == both
insert into slug values ({k}, 's{k}')
update slug set name = 't{k2}' where id = {o}
delete from slug where id = {o}
-- == new
insert into slug values ({k:TWICE}, 'taken'), ({k2:TWICE}, 'taken')
-- was:
-- == aside
public.slug
-- == may be refused
slug
