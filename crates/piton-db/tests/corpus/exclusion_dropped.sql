-- Bookings may overlap from now on.
-- == setup
create extension btree_gist;
create table booking (id int primary key, room int, during int4range, constraint no_overlap exclude using gist (room with =, during with &&));
insert into booking select i, i, int4range(1, 10) from generate_series(1, 30) i;
insert into booking values (100, 0, int4range(1, 10));
-- == migrate
alter table booking drop constraint no_overlap;
-- == both
insert into booking values ({k}, {k}, int4range({i}, {i} + 5))
update booking set during = int4range({i}, null, '[]') where id = {o}
delete from booking where id = {o}
-- == new
insert into booking values ({k:MORE}, 0, int4range(5, 6))
-- was:
-- == aside
public.booking
-- == may be refused
booking
