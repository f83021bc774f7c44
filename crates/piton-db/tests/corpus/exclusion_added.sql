-- Bookings of a room must not overlap from now on; those that do are deleted.
-- == setup
create extension btree_gist;
create table booking (id int primary key, room int, during tsrange, note text);
insert into booking select i, i, tsrange(timestamp '2026-01-01', timestamp '2026-01-02'), 'n' || i from generate_series(1, 30) i;
insert into booking select 100 + i, i, tsrange(timestamp '2026-01-01 12:00', null), 'overlaps' from generate_series(1, 5) i;
-- == migrate
delete from booking a using booking b where a.room = b.room and a.during && b.during and a.id > b.id;
alter table booking add constraint no_overlap exclude using gist (room with =, during with &&);
-- == both
insert into booking values ({k}, {k}, tsrange(null, timestamp '2026-06-01' + {n} * interval '1 s', '(]'), {t})
update booking set during = 'empty' where id = {o}
update booking set note = {t}, during = tsrange(timestamp '2026-02-01 10:00:00.000001', 'infinity') where id = {o}
delete from booking where id = {o}
