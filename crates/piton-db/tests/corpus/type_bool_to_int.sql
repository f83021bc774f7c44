-- A boolean becomes a number, and another column the other way round.
-- == setup
create table flag (id int primary key, a bool, b int);
insert into flag select i, i % 2 = 0, i % 2 from generate_series(1, 30) i;
-- == migrate
alter table flag alter a type int using a::int;
alter table flag alter b type bool using b::bool;
-- == old
insert into flag values ({k}, {i} > 4, {j} % 2)
update flag set a = {i} > 4 where id = {o}
-- == new
insert into flag values ({k}, ({i} > 4)::int, ({j} % 2)::bool)
-- was: insert into flag values ({k}, {i} > 4, {j} % 2)
update flag set a = ({i} > 4)::int where id = {o}
-- was: update flag set a = {i} > 4 where id = {o}
-- == both
update flag set b = null where id = {o}
delete from flag where id = {o}
-- == may be refused
flag
