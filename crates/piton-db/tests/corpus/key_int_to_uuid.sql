-- A serial key becomes a uuid: nothing tells a row's old key.
-- == setup
create table doc (id serial primary key, title text);
insert into doc (title) select 't' || i from generate_series(1, 30) i;
-- == migrate
alter table doc add column uid uuid not null default gen_random_uuid();
alter table doc drop constraint doc_pkey;
alter table doc drop column id;
alter table doc rename uid to id;
alter table doc add primary key (id);
-- == old
insert into doc (title) values ({t})
update doc set title = {t} where id = {o}
-- == refused
doc
