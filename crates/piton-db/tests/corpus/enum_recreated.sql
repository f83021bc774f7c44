-- An enum is made anew with a label less, and the rows that had it get another.
-- == setup
create type kind as enum ('a', 'b', 'c');
create table thing (id int primary key, kind kind, note text);
insert into thing select i, 'a', 'n' || i from generate_series(1, 30) i;
insert into thing select i, 'c', 'n' || i from generate_series(100, 110) i;
-- == migrate
alter type kind rename to kind_old;
create type kind as enum ('b', 'a');
alter table thing alter kind type kind using (case kind when 'c' then 'b' else kind::text end)::kind;
drop type kind_old;
-- == both
insert into thing values ({k}, 'a', {t})
update thing set kind = 'b' where id = {o}
update thing set note = {t} where id = {o}
delete from thing where id = {o}
-- == may be refused
kind
