-- Revisions of both kinds in turn: in a transaction, one by one, in a transaction.
-- == setup
create table doc (id int primary key, title text, n int);
insert into doc select i, 't' || i, i from generate_series(1, 30) i;
-- == migrate
alter table doc rename title to name;
-- == migrate
create index concurrently doc_name on doc (name);
alter table doc add column x int;
-- == migrate
alter table doc rename n to number;
alter table doc drop column x;
-- == old
insert into doc (id, title, n) values ({k}, {t}, {i})
update doc set title = {t} where id = {o}
-- == new
insert into doc (id, name, number) values ({k}, {t}, {i})
-- was: insert into doc (id, title, n) values ({k}, {t}, {i})
update doc set name = {t} where id = {o}
-- was: update doc set title = {t} where id = {o}
-- == both
delete from doc where id = {o}
