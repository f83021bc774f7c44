-- A table of a thousand columns, of which some are renamed, dropped and added.
-- == setup
do $$ begin
  execute 'create table wide (id int primary key, ' || (select string_agg('c' || i || ' text', ', ') from generate_series(1, 999) i) || ')';
  execute 'insert into wide select i, ' || (select string_agg(format('%L || i', 'v' || i || '-'), ', ') from generate_series(1, 999) i)
    || ' from generate_series(1, 30) i';
end $$;
-- == migrate
alter table wide rename c500 to middle;
alter table wide drop column c10, drop column c20;
alter table wide add column c1000 text default 'x', add column c1001 int;
-- == old
insert into wide (id, c1, c500, c999) values ({k}, {t}, {u}, '{i}')
update wide set c500 = {t} where id = {o}
update wide set c10 = {t}, c999 = {u} where id = {o}
-- == new
insert into wide (id, c1, middle, c999, c1000) values ({k}, {t}, {u}, '{i}', {t})
-- was: insert into wide (id, c1, c500, c999) values ({k}, {t}, {u}, '{i}')
update wide set middle = {t}, c1001 = {i} where id = {o}
-- was: update wide set c500 = {t} where id = {o}
-- == both
update wide set c998 = {t}, c2 = null where id = {o}
delete from wide where id = {o}
