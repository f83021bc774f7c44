-- Five revisions: a table and its columns get other names again and again, and end where others began.
-- == setup
create table a (id int primary key, x text, y text, n int);
create table b (id int primary key, x text);
insert into a select i, 'x' || i, 'y' || i, i from generate_series(1, 30) i;
insert into b select i, 'b' || i from generate_series(1, 30) i;
-- == quiet
the names mean other things in between
-- == migrate
alter table a rename to c;
alter table c rename x to x1;
-- == migrate
alter table b rename to a;
alter table a rename x to value;
-- == migrate
alter table c rename y to x;
alter table c rename x1 to y;
-- == migrate
alter table c add column z text;
alter table c alter n type bigint;
-- == migrate
alter table c rename to d;
alter table a rename to c;
-- == old
insert into a values ({k}, {t}, {u}, {i})
update a set x = {t} where id = {o}
update a set y = {t}, n = {i} where id = {o}
insert into b values ({k:b}, {t})
-- == new
insert into d (id, y, x, n) values ({k}, {t}, {u}, {i})
-- was: insert into a values ({k}, {t}, {u}, {i})
update d set y = {t} where id = {o}
-- was: update a set x = {t} where id = {o}
update d set x = {t}, n = {i} where id = {o}
-- was: update a set y = {t}, n = {i} where id = {o}
insert into c values ({k:b}, {t})
-- was: insert into b values ({k:b}, {t})
update c set value = {t} where id = {o:b}
-- was: update b set x = {t} where id = {o:b}
delete from d where id = {o}
-- was: delete from a where id = {o}
