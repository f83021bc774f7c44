-- A migration of comments, storage, statistics and options alone.
-- == setup
create table doc (id int primary key, body text, n int);
insert into doc select i, repeat('b' || i, 300), i from generate_series(1, 30) i;
-- == migrate
comment on table doc is 'documents';
comment on column doc.body is 'what is in it';
alter table doc alter body set storage external, alter n set statistics 500;
alter table doc set (fillfactor = 60, autovacuum_enabled = off);
create statistics doc_stat (dependencies) on id, n from doc;
alter table doc alter body set compression pglz;
analyze doc;
-- == both
insert into doc values ({k}, repeat({t} || 'x', 900), {i})
update doc set n = {i} where id = {o}
update doc set body = repeat('y{n}', 2000) where id = {o}
delete from doc where id = {o}
