-- The key's column is renamed, and a column that refers to it.
-- == setup
create table shop (id int primary key, name text);
create table sale (id int primary key, shop int references shop (id) on update cascade, n int);
insert into shop select i, 's' || i from generate_series(1, 30) i;
insert into sale select i, i, i from generate_series(1, 30) i;
-- == migrate
alter table shop rename id to shop_id;
alter table sale rename shop to shop_id;
-- == old
insert into shop (id, name) values ({k}, {t})
insert into sale (id, shop, n) select {k:sale}, id, {i} from shop where id = {o}
update shop set id = {k} where id = {o}
-- == new
insert into shop (shop_id, name) values ({k}, {t})
-- was: insert into shop (id, name) values ({k}, {t})
insert into sale (id, shop_id, n) select {k:sale}, shop_id, {i} from shop where shop_id = {o}
-- was: insert into sale (id, shop, n) select {k:sale}, id, {i} from shop where id = {o}
update shop set shop_id = {k} where shop_id = {o}
-- was: update shop set id = {k} where id = {o}
-- == both
update sale set n = {i} where id = {o:sale}
delete from sale where id = {o:sale}
