-- A text becomes char(n), which pads: the spaces of before do not come back.
-- == setup
create table flag (id int primary key, code char(4), tag text);
insert into flag select i, 'c' || i, 't' || i from generate_series(1, 30) i;
-- == migrate
alter table flag alter code type char(8);
-- == both
insert into flag values ({k}, 'x{i}', {t})
update flag set code = '{i}', tag = {u} where id = {o}
update flag set code = 'ab' || repeat(' ', {i}) where id = {o}
delete from flag where id = {o}
