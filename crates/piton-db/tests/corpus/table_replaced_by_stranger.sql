-- A table is dropped, and one of the same name that has nothing to do with it takes its place.
-- == setup
create table session (id int primary key, token text, n int);
insert into session select i, 't' || i, i from generate_series(1, 30) i;
-- == quiet
session is another table afterwards
-- == migrate
drop table session;
create table session (id int primary key, token text, n int);
-- == old
insert into session values ({k}, {t}, {i})
update session set token = {t} where id = {o}
-- == new
update session set n = {i} where id = {o:NEW}
-- was: update session set n = {i} where id = {o:NEW}
insert into session values ({k:NEW}, {t}, {i})
-- was: insert into session values ({k:NEW}, {t}, {i})
-- == may be refused
session
