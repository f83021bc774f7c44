-- A table without a key gets a number as its key.
-- == setup
create table visit (url text, at int, note text);
alter table visit replica identity full;
insert into visit select 'u' || i % 4, i, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table visit add column id bigint generated always as identity primary key;
-- == both
insert into visit (url, at, note) values ({t}, {k}, {u})
update visit set note = {t} where at = {o}
delete from visit where at = {o}
-- == may be refused
visit
