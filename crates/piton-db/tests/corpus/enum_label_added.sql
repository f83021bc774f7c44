-- An enum gets a label; rows that have it have no place in the old structure.
-- == setup
create type level as enum ('low', 'high');
create table alarm (id int primary key, level level not null, levels level[]);
insert into alarm select i, 'low', '{low,high}' from generate_series(1, 30) i;
-- == migrate
alter type level add value 'middle' after 'low';
-- == both
insert into alarm values ({k}, 'low', '{high}')
update alarm set level = 'high', levels = null where id = {o}
update alarm set levels = array['low', 'low']::level[] where id = {o}
delete from alarm where id = {o}
-- == new
insert into alarm values ({k:NEW}, 'middle', null)
-- was:
-- == aside
public.alarm
