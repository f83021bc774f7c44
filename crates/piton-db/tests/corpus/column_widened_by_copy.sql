-- The long way from int to bigint: a new column is filled, takes the old one's name, and the old one goes.
-- == setup
create table click (id int primary key, count int, url text);
insert into click select i, i * 10, 'u' || i from generate_series(1, 30) i;
-- == migrate
alter table click add column count_new bigint;
update click set count_new = count;
alter table click drop column count;
alter table click rename column count_new to count;
-- == old
insert into click (id, count, url) values ({k}, {n}, {t})
-- == both
update click set count = count + {i} where id = {o}
update click set count = null where id = {o}
update click set url = {t} where id = {o}
delete from click where id = {o}
-- == new
insert into click (id, url, count) values ({k}, {t}, {n})
-- was: insert into click (id, url, count) values ({k}, {t}, {n})
