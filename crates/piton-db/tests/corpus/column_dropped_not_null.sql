-- A column without a default that must be filled is dropped: rows that come afterwards have nothing for it.
-- == setup
create table parcel (id int primary key, label text, weight int not null);
insert into parcel select i, 'n' || i, i from generate_series(1, 30) i;
-- == migrate
alter table parcel drop column weight;
-- == old
insert into parcel values ({k}, {t}, {n})
update parcel set weight = {n} where id = {o}
delete from parcel where id = {o}
-- == new
insert into parcel values ({k:NEW}, {t})
-- was:
update parcel set label = {t} where id = {o}
-- was: update parcel set label = {t} where id = {o}
delete from parcel where id = {o}
-- was: delete from parcel where id = {o}
delete from parcel where id = {o:NEW}
-- was:
-- == may be refused
weight
-- == aside
public.parcel
