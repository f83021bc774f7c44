-- Statements that write many rows each.
-- == setup
create table bulk (id int, w int, v text, primary key (w, id));
insert into bulk select i, i % 3, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table bulk rename v to value;
-- == old
insert into bulk select {k} * 10000 + i, {w}, {t} || i from generate_series(1, 40) i
update bulk set v = v || '{i}' where w = {w} and id % 10 = {j}
delete from bulk where w = {w} and id in (select id from bulk where w = {w} order by id limit 60 offset 20)
-- == new
insert into bulk select {k} * 10000 + i, {w}, {t} || i from generate_series(1, 40) i
-- was: insert into bulk select {k} * 10000 + i, {w}, {t} || i from generate_series(1, 40) i
update bulk set value = {t} where w = {w} and id % 10 = {j}
-- was: update bulk set v = {t} where w = {w} and id % 10 = {j}
delete from bulk where w = {w} and id in (select id from bulk where w = {w} order by id limit 60 offset 20)
-- was: delete from bulk where w = {w} and id in (select id from bulk where w = {w} order by id limit 60 offset 20)
