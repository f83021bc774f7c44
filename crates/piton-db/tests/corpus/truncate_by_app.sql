-- The app empties tables, also with what refers to them, and fills them again.
-- == setup
create table a_0 (id int primary key, v text);
create table a_1 (id int primary key, v text);
create table a_2 (id int primary key, v text);
create table b_0 (id int primary key, a int references a_0);
create table b_1 (id int primary key, a int references a_1);
create table b_2 (id int primary key, a int references a_2);
create table other (id int primary key, v text);
insert into other select i, 'o' || i from generate_series(1, 30) i;
-- == migrate
alter table a_0 rename v to w;
alter table a_1 add column w text default 'x';
alter table other rename v to w;
-- == old
update other set v = {t} where id = {o}
-- == new
update other set w = {t} where id = {o}
-- was: update other set v = {t} where id = {o}
truncate a_{w}, b_{w}; insert into a_{w} values ({k}, {t})
-- was: truncate a_{w}, b_{w}; insert into a_{w} values ({k}, {t})
truncate a_{w} cascade; insert into a_{w} values ({k}, {t})
-- was: truncate a_{w} cascade; insert into a_{w} values ({k}, {t})
truncate b_{w} restart identity; insert into b_{w} select {k2}, min(id) from a_{w} having min(id) is not null
-- was: truncate b_{w} restart identity; insert into b_{w} select {k2}, min(id) from a_{w} having min(id) is not null
-- == both
insert into a_{w} values ({k}, {t}); insert into b_{w} values ({k}, {k})
insert into a_{w} values ({k}, {t})
delete from other where id = {o}
insert into other (id) values ({k}), ({k2})
