-- Another default, and one that goes; what the old app leaves out means something else afterwards.
-- == setup
create table ticket (id int primary key, state text default 'new', level int default 1);
insert into ticket (id) select i from generate_series(1, 30) i;
-- == quiet
a value that is left out becomes another one afterwards
-- == migrate
alter table ticket alter state set default 'open';
alter table ticket alter level drop default;
-- == old
insert into ticket (id) values ({k})
insert into ticket (id, level) values ({k}, {i})
-- == new
insert into ticket (id) values ({k})
-- was: insert into ticket (id, state, level) values ({k}, 'open', null)
insert into ticket (id, level) values ({k}, {i})
-- was: insert into ticket (id, state, level) values ({k}, 'open', {i})
-- == both
update ticket set state = {t} where id = {o}
update ticket set level = null, state = 'x' where id = {o}
delete from ticket where id = {o}
