-- Two columns become one text, from which they cannot be told again.
-- == setup
create table guest (id int primary key, first text, last text, n int);
insert into guest select i, 'f' || i, 'l' || i, i from generate_series(1, 30) i;
-- == migrate
alter table guest add column name text;
update guest set name = first || ' ' || last;
alter table guest drop column first, drop column last;
-- == old
insert into guest values ({k}, {t}, {u}, {i})
update guest set first = {t} where id = {o}
-- == new
update guest set n = {i} where id = {o}
-- was: update guest set n = {i} where id = {o}
delete from guest where id = {o}
-- was: delete from guest where id = {o}
insert into guest (id, name, n) values ({k:NEW}, {t}, {i})
-- was: insert into guest (id, n) values ({k:NEW}, {i})
update guest set name = {t} where id = {o:NEW}
-- was: update guest set n = n where id = {o:NEW}
-- == loses
public.guest.first: first
public.guest.last: last
-- == may be refused
first
