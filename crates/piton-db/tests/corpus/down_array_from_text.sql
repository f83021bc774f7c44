-- A text with commas becomes an array, and is put together again.
-- == setup
create table item (id int primary key, tags text, n int);
insert into item select i, 'a,b' || i, i from generate_series(1, 30) i;
-- == migrate
alter table item alter tags type text[] using string_to_array(tags, ',');
-- == quiet
tags are another type afterwards
-- == old
insert into item values ({k}, 'x{i},y', {i})
update item set tags = 'z' where id = {o}
-- == both
update item set n = {i} where id = {o}
delete from item where id = {o}
-- == new
insert into item values ({k}, array['u{i}', 'v'], {i})
-- was: insert into item values ({k}, 'u{i},v', {i})
update item set tags = tags || array['{j}'] where id = {o}
-- was: update item set tags = tags || ',{j}' where id = {o}
-- == down
item.tags = array_to_string(tags, ',')
