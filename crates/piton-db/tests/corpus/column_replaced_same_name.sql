-- A column is dropped, and a new one of the same name and type with a meaning of its own is added.
-- == setup
create table job (id int primary key, state int not null, note text);
insert into job select i, i % 4, 'n' || i from generate_series(1, 30) i;
-- == quiet
state means something else afterwards
-- == migrate
alter table job drop column state;
alter table job add column state int not null default 0;
-- == old
insert into job values ({k}, {i}, {t})
update job set state = {i} where id = {o}
-- == refused
state
