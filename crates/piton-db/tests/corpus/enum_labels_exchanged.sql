-- Two labels of an enum exchange their names: their texts are valid in the old structure, and wrong.
-- == setup
create type side as enum ('left', 'right');
create table wing (id int primary key, side side);
insert into wing select i, (enum_range(null::side))[1 + i % 2] from generate_series(1, 30) i;
-- == quiet
left and right are exchanged afterwards
-- == migrate
alter type side rename value 'left' to 'x';
alter type side rename value 'right' to 'left';
alter type side rename value 'x' to 'right';
-- == old
insert into wing values ({k}, 'left')
update wing set side = 'right' where id = {o}
-- == new
insert into wing values ({k}, 'right')
-- was: insert into wing values ({k}, 'left')
update wing set side = 'left' where id = {o}
-- was: update wing set side = 'right' where id = {o}
-- == may be refused
side
