-- Two tables are kept alike by triggers in both directions while the app moves from one to the other.
-- == setup
create table old_user (id int primary key, mail text);
insert into old_user select i, 'm' || i from generate_series(1, 30) i;
-- == migrate
create table new_user (id int primary key, email text, verified bool not null default false);
lock table old_user;
insert into new_user select id, mail from old_user;
create function forth() returns trigger language plpgsql as $$
begin
  if pg_trigger_depth() > 1 then return null; end if;
  if tg_op = 'DELETE' then delete from new_user where id = old.id; return null; end if;
  insert into new_user values (new.id, new.mail) on conflict (id) do update set email = excluded.email;
  return null;
end $$;
create function back() returns trigger language plpgsql as $$
begin
  if pg_trigger_depth() > 1 then return null; end if;
  if tg_op = 'DELETE' then delete from old_user where id = old.id; return null; end if;
  insert into old_user values (new.id, new.email) on conflict (id) do update set mail = excluded.mail;
  return null;
end $$;
create trigger forth after insert or update or delete on old_user for each row execute function forth();
create trigger back after insert or update or delete on new_user for each row execute function back();
-- == quiet
a session with an older snapshot does not see the rows of the new table
-- == old
insert into old_user values ({k}, {t})
update old_user set mail = {t} where id = {o}
delete from old_user where id = {o}
-- == new
insert into new_user values ({k}, {t}, true)
-- was: insert into old_user values ({k}, {t})
update new_user set email = {t} where id = {o}
-- was: update old_user set mail = {t} where id = {o}
update new_user set verified = not verified where id = {o}
-- was: update old_user set mail = mail where id = {o}
update old_user set mail = {t} where id = {o}
-- was: update old_user set mail = {t} where id = {o}
delete from new_user where id = {o}
-- was: delete from old_user where id = {o}
