-- Updates that change nothing, rows that are inserted and deleted in one transaction, locks alone.
-- == setup
create table doc (id int primary key, v text, n int);
insert into doc select i, 'v' || i, i from generate_series(1, 30) i;
-- == migrate
alter table doc alter n type bigint;
-- == both
insert into doc values ({k}, {t}, {i})
update doc set v = v where id = {o}
select * from doc where id = {o} for update
insert into doc values ({k2}, {t}, {i}); delete from doc where id = {k2}
delete from doc where id = {o}; insert into doc values ({o}, {t}, {i})
update doc set v = {t} where id = {o}; update doc set v = {u} where id = {o}; update doc set n = {i} where id = {o}
update doc set id = {k} where id = {o}; update doc set id = {o} where id = {k}
