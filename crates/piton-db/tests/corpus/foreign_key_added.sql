-- Orphans are deleted, and a foreign key is added in two steps.
-- == setup
create table parent (id int primary key, v text);
create table child (id int primary key, parent_id int, v text);
insert into parent select i, 'p' || i from generate_series(1, 30) i;
insert into child select i, i, 'c' || i from generate_series(1, 30) i;
insert into child select i, -i, 'orphan' from generate_series(100, 110) i;
-- == migrate
delete from child where not exists (select from parent where id = parent_id);
alter table child add constraint child_parent foreign key (parent_id) references parent on delete cascade not valid;
alter table child validate constraint child_parent;
-- == both
insert into parent values ({k}, {t})
insert into child select {k:child}, id, {t} from parent where id = {o} for key share
update child set v = {t} where id = {o:child}
update parent set v = {t} where id = {o}
delete from child where id = {o:child}
