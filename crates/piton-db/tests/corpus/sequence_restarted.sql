-- A sequence starts from another number: the old structure goes on behind what was given.
-- == setup
create table bill (id serial primary key, k int unique, v text);
insert into bill (k, v) select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter sequence bill_id_seq restart with 5000000;
alter table bill alter id type bigint;
alter sequence bill_id_seq as bigint increment 10;
-- == both
insert into bill (k, v) values ({k}, {t})
update bill set v = {t} where k = {o}
delete from bill where k = {o}
-- == check
select k, v from bill
