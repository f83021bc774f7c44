-- A uuid becomes the key, and the old number stays as a unique column.
-- == setup
create table doc (id int primary key, title text);
insert into doc select i, 't' || i from generate_series(1, 30) i;
-- == migrate
alter table doc add column uid uuid not null default gen_random_uuid();
alter table doc drop constraint doc_pkey;
alter table doc add primary key (uid);
alter table doc add constraint doc_id_key unique (id);
-- == both
insert into doc (id, title) values ({k}, {t})
update doc set title = {t} where id = {o}
update doc set id = {k} where id = {o}
delete from doc where id = {o}
-- == may be refused
doc
