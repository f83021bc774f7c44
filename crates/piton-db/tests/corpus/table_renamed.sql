-- A table is renamed, with its key's index and its sequence.
-- == setup
create table users (id serial primary key, key int unique, name text);
insert into users (key, name) select i, 'u' || i from generate_series(1, 30) i;
-- == migrate
alter table users rename to people;
alter sequence users_id_seq rename to people_id_seq;
alter index users_pkey rename to people_pkey;
-- == old
insert into users (key, name) values ({k}, {t})
update users set name = {t} where key = {o}
delete from users where key = {o}
-- == new
insert into people (key, name) values ({k}, {t})
-- was: insert into users (key, name) values ({k}, {t})
update people set name = {t} where key = {o}
-- was: update users set name = {t} where key = {o}
delete from people where key = {o}
-- was: delete from users where key = {o}
-- == check
select key, name from users
