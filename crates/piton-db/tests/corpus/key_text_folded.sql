-- A key is folded to small letters: other keys, which the old structure had under other names.
-- == setup
create table user_name (name text primary key, n int);
insert into user_name select 'User' || i, i from generate_series(1, 30) i;
-- == quiet
keys are small letters afterwards
-- == migrate
update user_name set name = lower(name);
-- == old
insert into user_name values ('User{k}', {i})
update user_name set n = {i} where name = 'User{o}'
-- == refused
user_name
