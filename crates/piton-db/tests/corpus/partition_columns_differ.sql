-- Partitions whose columns stand in another order than their table's, with columns that were dropped.
-- == setup
create table flow (gone int, id int, day date, v text, w int) partition by range (day);
alter table flow drop column gone;
alter table flow add primary key (id, day);
create table flow_a (w int, x int, v text, day date not null, id int not null);
alter table flow_a drop column x;
alter table flow attach partition flow_a for values from ('2026-01-01') to ('2026-07-01');
create table flow_b partition of flow default;
insert into flow select i, date '2026-06-20' + i, 'v' || i, i from generate_series(1, 30) i;
-- == migrate
alter table flow drop column w;
alter table flow rename v to value;
alter table flow add column note text;
-- == old
insert into flow (id, day, v, w) values ({k}, date '2026-03-01' + {i}, {t}, {i})
update flow set v = {t}, w = {i} where id = {o}
-- == new
insert into flow (id, day, value) values ({k}, date '2026-03-01' + {i}, {t})
-- was: insert into flow (id, day, v) values ({k}, date '2026-03-01' + {i}, {t})
update flow set value = {t}, note = {u} where id = {o}
-- was: update flow set v = {t} where id = {o}
-- == both
update flow set day = date '2026-06-25' + {i} where id = {o}
delete from flow where id = {o}
-- == loses
public.flow_a.w: "w"
public.flow_b.w: "w"
-- == may be refused
flow
