-- Two columns become one text, from which they can be told again.
-- == setup
create table guest (id int primary key, first text not null, last text, n int);
insert into guest select i, 'f' || i, 'l' || i, i from generate_series(1, 30) i;
-- == migrate
alter table guest add column name text;
update guest set name = first || '/' || coalesce(last, '');
alter table guest drop column first, drop column last;
-- == old
insert into guest values ({k}, 'x{i}', nullif({u}, ''), {i})
update guest set first = 'y{j}' where id = {o}
-- == new
update guest set n = {i} where id = {o}
-- was: update guest set n = {i} where id = {o}
insert into guest (id, name, n) values ({k}, 'x{i}/' || {u}, {i})
-- was: insert into guest values ({k}, 'x{i}', nullif({u}, ''), {i})
update guest set name = 'z{i}/' || {t} where id = {o}
-- was: update guest set first = 'z{i}', last = nullif({t}, '') where id = {o}
delete from guest where id = {o}
-- was: delete from guest where id = {o}
-- == down
guest.first = split_part(name, '/', 1)
guest.last = nullif(substr(name, strpos(name, '/') + 1), '')
