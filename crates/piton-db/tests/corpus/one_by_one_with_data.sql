-- A file that cannot run in one transaction: structure and rows change in turn.
-- == setup
create table doc (id int primary key, kind text, body text);
insert into doc select i, 'k' || i % 3, 'b' || i from generate_series(1, 30) i;
-- == migrate
alter table doc add column sort int;
create index concurrently doc_kind on doc (kind);
update doc set sort = id;
alter table doc rename body to content;
insert into doc (id, kind, content) values (900001, 'made', 'by the migration');
alter table doc alter sort set default 0;
vacuum analyze doc;
delete from doc where id = 900001;
-- == old
insert into doc (id, kind, body) values ({k}, 'k{i}', {t})
update doc set body = {t} where id = {o}
-- == may be refused
doc
-- == new
insert into doc (id, kind, content) values ({k}, 'k{i}', {t})
-- was: insert into doc (id, kind, body) values ({k}, 'k{i}', {t})
update doc set content = {t}, sort = {i} where id = {o}
-- was: update doc set body = {t} where id = {o}
-- == both
update doc set kind = {t} where id = {o}
delete from doc where id = {o}
