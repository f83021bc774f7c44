-- A table without a key whose changes tell the whole row; equal rows are taken one by one.
-- == setup
create table part (box int, what text, n int);
alter table part replica identity full;
insert into part select i, 'same', 1 from generate_series(1, 30) i, generate_series(1, 2);
insert into part values (null, null, null), (null, null, null);
-- == migrate
alter table part rename what to kind;
alter table part add column extra int;
-- == old
insert into part values ({k}, {t}, {i})
update part set what = {t} where box = {o}
update part set n = n + 1 where box = {o}
-- == new
insert into part (box, kind, n) values ({k}, {t}, {i}), ({k}, {t}, {i})
-- was: insert into part values ({k}, {t}, {i}), ({k}, {t}, {i})
update part set kind = {t}, extra = {i} where box = {o}
-- was: update part set what = {t} where box = {o}
update part set extra = {i} where box = {o}
-- was: update part set n = n where box = {o}
-- == both
insert into part values ({k}, 'same', null)
delete from part where box = {o} and n > 3
delete from part where ctid = (select min(ctid) from part where box = {o})
-- == may be refused
part
