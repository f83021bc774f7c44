-- A column is put aside under another name, and a second one takes its name: what goes by places in the table is wrong.
-- == setup
create table item (id int primary key, b text, b2 text);
insert into item select i, 'b' || i, 'b2 ' || i from generate_series(1, 30) i;
-- == quiet
b is another column afterwards
-- == migrate
alter table item rename b to b_old;
alter table item rename b2 to b;
-- == old
insert into item values ({k}, {t}, {u})
update item set b = {t} where id = {o}
update item set b2 = {t} where id = {o}
delete from item where id = {o}
-- == new
insert into item (id, b_old, b) values ({k}, {t}, {u})
-- was: insert into item (id, b, b2) values ({k}, {t}, {u})
update item set b = {t} where id = {o}
-- was: update item set b2 = {t} where id = {o}
update item set b_old = {t} where id = {o}
-- was: update item set b = {t} where id = {o}
delete from item where id = {o}
-- was: delete from item where id = {o}
-- == may be refused
item
