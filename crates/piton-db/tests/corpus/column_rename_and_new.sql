-- A column gets another name, and a new column with nothing in it gets the old name.
-- == setup
create table task (id int primary key, owner text, n int);
insert into task select i, 'o' || i, i from generate_series(1, 30) i;
-- == quiet
owner is another column afterwards
-- == migrate
alter table task rename owner to owner_name;
alter table task add column owner text;
-- == old
insert into task values ({k}, {t}, {i})
update task set owner = {t} where id = {o}
-- == new
insert into task (id, owner_name, owner) values ({k}, {t}, {u})
-- was: insert into task (id, owner) values ({k}, {t})
update task set owner = {u} where id = {o}
-- was (other counts): update task set n = n where id = {o}
update task set owner_name = {t} where id = {o}
-- was: update task set owner = {t} where id = {o}
-- == both
delete from task where id = {o}
-- == may be refused
owner
