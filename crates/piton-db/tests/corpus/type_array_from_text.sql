-- A text with commas becomes an array.
-- == setup
create table item (id int primary key, tags text, n int);
insert into item select i, 'a,b' || i, i from generate_series(1, 30) i;
-- == migrate
alter table item alter tags type text[] using string_to_array(tags, ',');
-- == old
insert into item values ({k}, 'x{i},y', {i})
update item set tags = 'z' where id = {o}
-- == both
update item set n = {i} where id = {o}
delete from item where id = {o}
-- == new
insert into item (id, n) values ({k}, {i})
-- was: insert into item (id, n) values ({k}, {i})
-- == refused
tags
