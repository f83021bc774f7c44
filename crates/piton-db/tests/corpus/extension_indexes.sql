-- Extensions that bring indexes and functions alone: pg_trgm, uuid-ossp, unaccent.
-- == setup
create table doc (id int primary key, title text);
insert into doc select i, 'title ' || i from generate_series(1, 30) i;
-- == migrate
create extension pg_trgm;
create extension "uuid-ossp";
create index doc_title on doc using gin (title gin_trgm_ops);
alter table doc add column uid uuid default uuid_generate_v4();
create unique index doc_uid on doc (uid);
-- == both
insert into doc (id, title) values ({k}, {t})
update doc set title = {t} where id = {o}
update doc set id = {k} where id = {o}
delete from doc where id = {o}
