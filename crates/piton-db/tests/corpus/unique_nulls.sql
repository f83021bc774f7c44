-- A unique constraint takes NULLs for equal from now on.
-- == setup
create table opt (id int primary key, a int, b int);
create unique index opt_ab on opt (a, b);
insert into opt select i, i, null from generate_series(1, 30) i;
-- == migrate
drop index opt_ab;
create unique index opt_ab on opt (a, b) nulls not distinct;
-- == both
insert into opt values ({k}, {k}, null)
update opt set b = {i} where id = {o}
update opt set b = null where id = {o}
delete from opt where id = {o}
