-- A text becomes a shorter varchar; no value is longer.
-- == setup
create table land (id int primary key, code text, name text);
insert into land select i, 'c' || i, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table land alter code type varchar(10);
-- == both
insert into land values ({k}, '{s}{i}', {t})
update land set code = '{s}', name = {t} where id = {o}
delete from land where id = {o}
