-- A label of an enum is renamed: the old structure knows it by its old name.
-- == setup
create type phase as enum ('todo', 'doing', 'done');
create table card (id int primary key, phase phase, title text);
insert into card select i, (enum_range(null::phase))[1 + i % 3], 't' || i from generate_series(1, 30) i;
-- == migrate
alter type phase rename value 'doing' to 'in progress';
-- == old
insert into card values ({k}, 'doing', {t})
update card set phase = 'doing' where id = {o}
-- == new
insert into card values ({k}, 'in progress', {t})
-- was: insert into card values ({k}, 'doing', {t})
update card set phase = 'in progress' where id = {o}
-- was: update card set phase = 'doing' where id = {o}
-- == both
update card set phase = 'done', title = {t} where id = {o}
update card set title = {t} where id = {o}
delete from card where id = {o}
-- == may be refused
phase
