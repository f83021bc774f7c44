-- The columns of a key change places, and their names.
-- == setup
create table edge (a int, b int, note text, primary key (a, b));
insert into edge select i, 100 - i, 'n' || i from generate_series(1, 30) i;
-- == quiet
a and b are exchanged afterwards
-- == migrate
alter table edge rename a to c;
alter table edge rename b to a;
alter table edge rename c to b;
alter table edge drop constraint edge_pkey, add primary key (a, b);
-- == old
insert into edge values ({k}, {k2}, {t})
update edge set note = {t} where a = {o}
delete from edge where a = {o}
-- == new
insert into edge (b, a, note) values ({k}, {k2}, {t})
-- was: insert into edge (a, b, note) values ({k}, {k2}, {t})
update edge set note = {t} where b = {o}
-- was: update edge set note = {t} where a = {o}
update edge set a = {k2} where b = {o}
-- was: update edge set b = {k2} where a = {o}
delete from edge where b = {o}
-- was: delete from edge where a = {o}
-- == may be refused
edge
