-- A trigger that wrote a history is dropped, with the history staying.
-- == setup
create table doc (id int primary key, v text);
create table history (doc int, was text, writer int, number int, primary key (doc, number));
create function audit() returns trigger language plpgsql as $$
begin
  insert into history select old.id, old.v, old.id % 3, count(*) from history where doc = old.id;
  return coalesce(new, old);
end $$;
create trigger audit after update or delete on doc for each row execute function audit();
insert into doc select i, 'v' || i from generate_series(1, 30) i;
-- == quiet
a change leaves no history afterwards
-- == migrate
drop trigger audit on doc;
drop function audit();
-- == old
insert into doc values ({k}, {t})
update doc set v = {t} where id = {o}
delete from doc where id = {o}
-- == new
insert into doc values ({k}, {t})
-- was: insert into doc values ({k}, {t})
update doc set v = {t} where id = {o}
-- was (other counts): alter table doc disable trigger audit; update doc set v = {t} where id = {o}; alter table doc enable trigger audit
insert into history values ({o}, {t}, {w}, {k})
-- was: insert into history values ({o}, {t}, {w}, {k})
-- == may be refused
audit
