-- Four revisions under an old app that goes on: each leaves its words valid.
-- == setup
create table doc (id int primary key, title text, n int, v varchar(40));
insert into doc select i, 't' || i, i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table doc add column slug text;
-- == migrate
alter table doc alter n type bigint;
create table note (id bigint generated always as identity primary key, doc int, body text);
-- == migrate
alter table doc alter v type text;
update doc set slug = 's' || id where slug is null;
-- == migrate
alter table doc add column state text not null default 'new';
create view docs as select * from doc;
-- == both
insert into doc (id, title, n, v) values ({k}, {t}, {n}, {u})
update doc set title = {t} where id = {o}
update doc set n = {n}, v = {u} where id = {o}
update doc set id = {k} where id = {o}
delete from doc where id = {o}
