-- A number becomes a text, in which the app goes on writing numbers.
-- == setup
create table part (id int primary key, code int, name text);
insert into part select i, i * 7, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table part alter code type text;
-- == old
insert into part values ({k}, {n}, {t})
update part set code = {n} where id = {o}
-- == new
insert into part values ({k}, '{n}', {t})
-- was: insert into part values ({k}, {n}, {t})
update part set code = '{n}' where id = {o}
-- was: update part set code = {n} where id = {o}
insert into part values ({k:WORDS}, 'x' || {t}, {t})
-- was:
-- == both
update part set name = {t} where id = {o}
update part set code = null where id = {o}
delete from part where id = {o}
-- == aside
public.part
-- == may be refused
code
