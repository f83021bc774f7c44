-- Columns of composite types, of which one gets another attribute.
-- == setup
create type place as (street text, zip int, tags text[]);
create type ends as (a place, b place);
create table home (id int primary key, at place, both_ends ends, many place[]);
insert into home select i, row('s' || i, i, array['x'])::place, null, null from generate_series(1, 30) i;
-- == migrate
alter table home rename at to place;
alter table home add column note text;
-- == old
insert into home (id, at) values ({k}, row({t}, {i}, array[{u}, null]))
update home set at.street = {t} where id = {o}
-- == new
insert into home (id, place) values ({k}, row({t}, {i}, array[{u}, null]))
-- was: insert into home (id, at) values ({k}, row({t}, {i}, array[{u}, null]))
update home set place.street = {t} where id = {o}
-- was: update home set at.street = {t} where id = {o}
-- == both
update home set both_ends = row(row({t}, null, null)::place, null)::ends where id = {o}
update home set many = array[row({t}, {i}, array[]::text[])::place, null] where id = {o}
delete from home where id = {o}
