-- Bit strings get another length.
-- == setup
create table mask (id int primary key, fixed bit(4), loose bit varying(12));
insert into mask select i, (i % 16)::bit(4), (i * 3)::bit(10)::varbit from generate_series(1, 30) i;
-- == migrate
alter table mask alter loose type bit varying(20);
alter table mask alter fixed type bit varying;
-- == both
insert into mask values ({k}, {i}::int::bit(4), {n}::int::bit(12))
update mask set fixed = ({i} + 6)::bit(4) where id = {o}
update mask set loose = b'', fixed = null where id = {o}
update mask set loose = b'0010' where id = {o}
delete from mask where id = {o}
