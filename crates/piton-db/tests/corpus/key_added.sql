-- A table without a key gets one from its columns.
-- == setup
create table pair (a int not null, b int not null, v text);
alter table pair replica identity full;
insert into pair select i, i % 3, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table pair add primary key (a, b);
-- == both
insert into pair values ({k}, {w}, {t})
update pair set v = {t} where a = {o}
delete from pair where a = {o}
-- == may be refused
pair
