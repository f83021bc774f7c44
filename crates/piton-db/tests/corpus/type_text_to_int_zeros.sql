-- A text becomes a number, and some of the texts have zeros in front that no number gives back.
-- == setup
create table zip (id int primary key, code text, note text);
insert into zip select i, to_char(i, 'FM00000') from generate_series(1, 30) i;
-- == migrate
alter table zip alter code type int using code::int;
-- == old
insert into zip values ({k}, '0{n}')
update zip set code = '00{i}' where id = {o}
update zip set note = {t} where id = {o}
-- == quiet
a number has no zeros in front afterwards
-- == new
insert into zip (id, code) values ({k}, 9{i})
-- was: insert into zip (id, code) values ({k}, '9{i}')
update zip set code = 80000{i} where id = {o}
-- was: update zip set code = '80000{i}' where id = {o}
update zip set note = {t} where id = {o}
-- was: update zip set note = {t} where id = {o}
-- == may be refused
code
