-- What happens to children when a parent goes is another thing afterwards, in each direction.
-- == setup
create table p (id int primary key, v text);
create table a (id int primary key, p int constraint a_p references p on delete cascade on update cascade);
create table b (id int primary key, p int constraint b_p references p on delete set null on update cascade);
create table c (id int primary key, p int default 0 constraint c_p references p on update cascade);
insert into p select i, 'p' || i from generate_series(0, 30) i;
insert into a select i, i from generate_series(1, 30) i;
insert into b select i, i from generate_series(1, 30) i;
insert into c select i, i from generate_series(1, 30) i;
-- == quiet
a deleted parent takes other children with it afterwards
-- == migrate
alter table a drop constraint a_p, add constraint a_p foreign key (p) references p on delete set null on update cascade;
alter table b drop constraint b_p, add constraint b_p foreign key (p) references p on delete cascade on update cascade;
alter table c drop constraint c_p, add constraint c_p foreign key (p) references p on delete set default on update cascade;
-- == old
delete from c where p = {o}; delete from p where id = {o}
-- == new
delete from p where id = {o}
-- was (other counts): update a set p = null where p = {o}; delete from b where p = {o}; update c set p = 0 where p = {o}; delete from p where id = {o}
-- == both
insert into p values ({k}, {t}); insert into a values ({k}, {k}); insert into b values ({k}, {k}); insert into c values ({k}, {k})
update p set v = {t} where id = {o}
update p set id = {k} where id = {o}
