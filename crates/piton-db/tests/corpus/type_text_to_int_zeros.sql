-- A text becomes a number, and some of the texts have zeros in front that no number gives back.
-- == setup
create table zip (id int primary key, code text);
insert into zip select i, to_char(i, 'FM00000') from generate_series(1, 30) i;
-- == migrate
alter table zip alter code type int using code::int;
-- == old
insert into zip values ({k}, '0{n}')
update zip set code = '00{i}' where id = {o}
-- == refused
code
