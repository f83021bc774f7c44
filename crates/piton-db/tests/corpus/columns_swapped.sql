-- Two columns of one type exchange their names by way of a third.
-- == setup
create table pair (id int primary key, a text, b text, n int);
insert into pair select i, 'a' || i, 'b' || i, i from generate_series(1, 30) i;
-- == quiet
a and b are exchanged afterwards
-- == migrate
alter table pair rename a to c;
alter table pair rename b to a;
alter table pair rename c to b;
-- == old
insert into pair values ({k}, {t}, {u}, {i})
update pair set a = {t} where id = {o}
update pair set b = {t}, n = {i} where id = {o}
delete from pair where id = {o}
-- == new
insert into pair (id, b, a, n) values ({k}, {t}, {u}, {i})
-- was: insert into pair (id, a, b, n) values ({k}, {t}, {u}, {i})
update pair set b = {t} where id = {o}
-- was: update pair set a = {t} where id = {o}
update pair set a = {t}, n = {i} where id = {o}
-- was: update pair set b = {t}, n = {i} where id = {o}
delete from pair where id = {o}
-- was: delete from pair where id = {o}
-- == may be refused
pair
