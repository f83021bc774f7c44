-- Triggers that fire in a replay as well, and one that the old app had switched off.
-- == setup
create table item (id int primary key, v text, n int not null default 0);
create function bump() returns trigger language plpgsql as $$ begin new.n := new.n + 1; return new; end $$;
create trigger bump before update on item for each row execute function bump();
alter table item enable always trigger bump;
create trigger off before insert on item for each row execute function bump();
alter table item disable trigger off;
insert into item (id, v) select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table item add column x int;
-- == both
insert into item (id, v) values ({k}, {t})
update item set v = {t} where id = {o}
update item set n = {i} where id = {o}
delete from item where id = {o}
