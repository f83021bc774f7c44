-- NULLs are filled and forbidden; where the app has not written, the golden copy keeps them.
-- == setup
create table guest (id int primary key, name text, phone text, n int);
insert into guest select i, 'g' || i, case when i % 2 = 0 then 'p' || i end, null from generate_series(1, 30) i;
-- == migrate
lock table guest in share row exclusive mode;
update guest set phone = '' where phone is null;
update guest set n = 0 where n is null;
alter table guest alter phone set not null, alter phone set default '', alter n set not null, alter n set default 0;
-- == old
insert into guest (id, name, phone, n) values ({k}, {t}, null, null)
insert into guest (id, name, phone, n) values ({k}, {t}, {u}, {i})
update guest set phone = null, n = null where id = {o}
-- == both
insert into guest (id, name, phone, n) values ({k}, {t}, '+{n}', 1 + {i})
update guest set name = {t} where id = {o}
update guest set phone = 'x' || {t} where id = {o}
update guest set n = 1 + {i}, name = {u} where id = {o}
delete from guest where id = {o}
-- == may be refused
guest
