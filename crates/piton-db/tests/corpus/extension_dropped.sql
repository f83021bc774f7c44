-- An extension goes, with what used it.
-- == setup
create extension citext;
create extension hstore;
create table doc (id int primary key, title citext, attr hstore);
insert into doc select i, 'Title ' || i, hstore('a', 'b') from generate_series(1, 30) i;
-- == migrate
alter table doc alter title type text;
alter table doc drop column attr;
drop extension hstore;
drop extension citext;
-- == both
insert into doc (id, title) values ({k}, {t})
update doc set title = {t} where id = {o}
delete from doc where id = {o}
-- == old
update doc set attr = hstore({t}, {u}) where id = {o}
-- == may be refused
attr
