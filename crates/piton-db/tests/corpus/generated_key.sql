-- The key itself is computed.
-- == setup
create table route (a int, b int, id int primary key generated always as (a * 10 + b) stored, note text);
insert into route (a, b, note) select i, 0, 'r' || i from generate_series(1, 30) i;
-- == migrate
alter table route rename note to remark;
-- == old
insert into route (a, b, note) values ({k}, 0, {t})
update route set note = {t} where a = {o}
-- == new
insert into route (a, b, remark) values ({k}, 0, {t})
-- was: insert into route (a, b, note) values ({k}, 0, {t})
update route set remark = {t} where a = {o}
-- was: update route set note = {t} where a = {o}
-- == both
update route set b = {i} where a = {o}
delete from route where a = {o}
