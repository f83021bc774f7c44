-- NULLs are filled; a row that the app has touched elsewhere keeps its NULL in the golden copy.
-- == setup
create table person (id int primary key, name text, locale text, tries int);
insert into person select i, 'p' || i, case when i % 3 = 0 then 'de' end, null from generate_series(1, 30) i;
-- == migrate
update person set locale = 'en' where locale is null;
update person set tries = 0 where tries is null;
-- == old
insert into person (id, name) values ({k}, {t})
insert into person (id, name, locale) values ({k}, {t}, 'fr')
-- == both
update person set name = {t} where id = {o}
update person set locale = 'l{i}' where id = {o}
update person set tries = tries + 1 where id = {o} and tries > 0
update person set tries = 1 + {i}, locale = null where id = {o}
delete from person where id = {o}
