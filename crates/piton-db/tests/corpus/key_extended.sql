-- A tenant is put in front of every key.
-- == setup
create table project (id int primary key, name text);
create table todo (id int primary key, project_id int not null references project on delete cascade, title text);
insert into project select i, 'p' || i from generate_series(1, 30) i;
insert into todo select i, i, 't' || i from generate_series(1, 30) i;
-- == migrate
alter table project add column tenant int not null default 1;
alter table todo add column tenant int not null default 1;
alter table todo drop constraint todo_project_id_fkey;
alter table project drop constraint project_pkey, add primary key (tenant, id);
alter table todo drop constraint todo_pkey, add primary key (tenant, id);
alter table todo add foreign key (tenant, project_id) references project (tenant, id) on delete cascade;
-- == old
insert into project values ({k}, {t})
-- == both
update project set name = {t} where id = {o}
insert into todo (id, project_id, title) select {k:todo}, id, {t} from project where id = {o}
update todo set title = {t} where id = {o:todo}
delete from project where id = {o}
-- == new
insert into project (tenant, id, name) values (1 + {i} % 3, {k:P}, {t})
-- was: insert into project (id, name) values ({k:P}, {t})
update project set name = {t}, tenant = {j} where id = {o:P}
-- was: update project set name = {t} where id = {o:P}
