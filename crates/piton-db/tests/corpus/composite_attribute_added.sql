-- A composite type gets another attribute, and loses one.
-- == setup
create type place as (street text, zip int);
create table home (id int primary key, at place, note text);
insert into home select i, row('s' || i, i)::place, 'n' || i from generate_series(1, 30) i;
-- == quiet
a value has other parts afterwards
-- == migrate
alter type place add attribute town text;
-- == old
insert into home values ({k}, row({t}, {i}), {u})
update home set at = row({t}, {i}) where id = {o}
-- == new
insert into home (id, note) values ({k}, {u})
-- was: insert into home (id, note) values ({k}, {u})
update home set note = {t} where id = {o}
-- was: update home set note = {t} where id = {o}
delete from home where id = {o}
-- was: delete from home where id = {o}
-- == may be refused
at
