-- The key and another column become bigint.
-- == setup
create table hit (id int primary key, n int, note text);
insert into hit select i, i, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table hit alter id type bigint, alter n type bigint;
-- == both
insert into hit values ({k}, {n}, {t})
update hit set n = n + {i} where id = {o}
update hit set id = {k}, note = {t} where id = {o}
delete from hit where id = {o}
