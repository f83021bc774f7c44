-- Columns are gathered in a jsonb.
-- == setup
create table device (id int primary key, os text, version int, name text);
insert into device select i, 'os' || i, i, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table device add column info jsonb not null default '{}';
update device set info = jsonb_build_object('os', os, 'version', version);
alter table device drop column os, drop column version;
-- == old
insert into device values ({k}, {t}, {i}, {u})
update device set os = {t} where id = {o}
-- == new
insert into device (id, name, info) values ({k:NEW}, {u}, jsonb_build_object('os', {t}::text))
-- was: insert into device (id, name) values ({k:NEW}, {u})
update device set name = {t} where id = {o}
-- was: update device set name = {t} where id = {o}
delete from device where id = {o}
-- was: delete from device where id = {o}
-- == loses
public.device.os: os
public.device.version: version
-- == may be refused
os
