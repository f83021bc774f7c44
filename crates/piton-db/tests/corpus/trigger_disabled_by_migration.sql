-- The migration switches triggers off for its own work, and on again.
-- == setup
create table doc (id int primary key, v text, n int not null default 0);
create function bump() returns trigger language plpgsql as $$ begin new.n := new.n + 1; return new; end $$;
create trigger bump before update on doc for each row execute function bump();
insert into doc (id, v) select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table doc disable trigger user;
alter table doc add column tag text;
update doc set tag = 'old';
alter table doc enable trigger user;
-- == both
insert into doc (id, v) values ({k}, {t})
update doc set v = {t} where id = {o}
update doc set n = n + {i} where id = {o}
delete from doc where id = {o}
