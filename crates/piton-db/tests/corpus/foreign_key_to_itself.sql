-- A tree in one table, whose rows come and go together.
-- == setup
create table node (id int primary key, parent int references node on delete cascade, name text);
insert into node select i, nullif(greatest(i - 3, 0), 0), 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table node add column depth int;
create index node_parent on node (parent);
-- == both
insert into node (id, parent, name) select {k}, id, {t} from node where id = {o}
insert into node (id, parent, name) values ({k}, {k2}, {t}), ({k2}, null, {u})
update node set name = {t} where id = {o}
update node set parent = null where id = {o}
delete from node where id = {o} and id > 30
