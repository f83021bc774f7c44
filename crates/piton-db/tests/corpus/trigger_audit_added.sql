-- A history is written from now on: it has no place in the old structure.
-- == setup
create table doc (id int primary key, v text);
insert into doc select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
create table history (id bigint generated always as identity primary key, doc int, was text, at timestamptz default now());
create function audit() returns trigger language plpgsql security definer as $$
begin
  insert into history (doc, was) values (old.id, old.v);
  return coalesce(new, old);
end $$;
create trigger audit after update or delete on doc for each row execute function audit();
-- == both
insert into doc values ({k}, {t})
update doc set v = {t} where id = {o}
update doc set id = {k} where id = {o}
delete from doc where id = {o}
