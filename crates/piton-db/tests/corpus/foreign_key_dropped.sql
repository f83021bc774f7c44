-- A foreign key goes, and children outlive their parents.
-- == setup
create table parent (id int primary key, v text);
create table child (id int primary key, parent_id int references parent, v text);
insert into parent select i, 'p' || i from generate_series(1, 30) i;
insert into child select i, i, 'c' || i from generate_series(1, 30) i;
-- == migrate
alter table child drop constraint child_parent_id_fkey;
-- == both
insert into parent values ({k}, {t})
insert into child values ({k:child}, {o:PARENT}, {t})
insert into parent values ({k:PARENT}, {t})
update child set v = {t} where id = {o:child}
delete from child where id = {o:child}
-- == new
insert into child values ({k:LOST}, -{k:LOST}, {t})
-- was:
-- == aside
public.child
-- == may be refused
child
