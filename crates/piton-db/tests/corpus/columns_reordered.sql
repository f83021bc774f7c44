-- The table is made anew with its columns in another order.
-- == setup
create table entry (id int primary key, a text, b text, c int);
insert into entry select i, 'a' || i, 'b' || i, i from generate_series(1, 30) i;
-- == migrate
lock table entry;
create table entry_new (c int, b text, id int primary key, a text);
insert into entry_new (id, a, b, c) select id, a, b, c from entry;
drop table entry;
alter table entry_new rename to entry;
alter index entry_new_pkey rename to entry_pkey;
-- == both
insert into entry (id, a, b, c) values ({k}, {t}, {u}, {i})
update entry set a = {t} where id = {o}
update entry set b = {t}, c = {i} where id = {o}
update entry set id = {k} where id = {o}
delete from entry where id = {o}
