-- A trigger that notes the time of a change is dropped; another one notes how often.
-- == setup
create table doc (id int primary key, v text, changes int not null default 0, at timestamptz);
create function touch() returns trigger language plpgsql as $$ begin new.at := clock_timestamp(); return new; end $$;
create trigger touch before insert or update on doc for each row execute function touch();
insert into doc (id, v) select i, 'v' || i from generate_series(1, 30) i;
-- == quiet
a change is counted afterwards
-- == migrate
drop trigger touch on doc;
create function count_change() returns trigger language plpgsql as $$ begin new.changes := old.changes + 1; return new; end $$;
create trigger count_change before update on doc for each row execute function count_change();
-- == old
insert into doc (id, v) values ({k}, {t})
update doc set v = {t} where id = {o}
-- == new
insert into doc (id, v) values ({k}, {t})
-- was: insert into doc (id, v) values ({k}, {t})
update doc set v = {t} where id = {o}
-- was: update doc set v = {t}, changes = changes + 1 where id = {o}
-- == both
delete from doc where id = {o}
-- == check
select id, v, changes from doc
