-- Two tables with the same keys become one.
-- == setup
create table seller (id int primary key, name text);
create table seller_bank (seller_id int primary key, iban text);
insert into seller select i, 'n' || i from generate_series(1, 30) i;
insert into seller_bank select i, 'i' || i from generate_series(1, 30) i;
-- == migrate
lock table seller, seller_bank;
alter table seller add column iban text;
update seller s set iban = b.iban from seller_bank b where b.seller_id = s.id;
drop table seller_bank;
-- == old
insert into seller values ({k}, {t}); insert into seller_bank values ({k}, {u})
update seller_bank set iban = {t} where seller_id = {o}
update seller set name = {t} where id = {o}
-- == new
insert into seller values ({k}, {t}, {u})
-- was (other counts): insert into seller values ({k}, {t}); insert into seller_bank values ({k}, {u})
update seller set iban = {t} where id = {o}
-- was: update seller_bank set iban = {t} where seller_id = {o}
update seller set name = {t} where id = {o}
-- was: update seller set name = {t} where id = {o}
-- == loses
public.seller_bank: seller_bank
-- == may be refused
seller
