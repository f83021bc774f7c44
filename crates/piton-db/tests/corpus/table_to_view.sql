-- A table becomes a view over two new ones, with triggers behind it.
-- == setup
create table contact (id int primary key, name text, phone text);
insert into contact select i, 'n' || i, 'p' || i from generate_series(1, 30) i;
-- == migrate
lock table contact;
create table contact_name (id int primary key, name text);
create table contact_phone (id int primary key references contact_name on delete cascade, phone text);
insert into contact_name select id, name from contact;
insert into contact_phone select id, phone from contact;
drop table contact;
create view contact as select n.id, n.name, p.phone from contact_name n join contact_phone p on p.id = n.id;
create function contact_write() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into contact_name values (new.id, new.name);
    insert into contact_phone values (new.id, new.phone);
    return new;
  elsif tg_op = 'UPDATE' then
    update contact_name set name = new.name where id = old.id;
    update contact_phone set phone = new.phone where id = old.id;
    return new;
  end if;
  delete from contact_name where id = old.id;
  return old;
end $$;
create trigger contact_write instead of insert or update or delete on contact for each row execute function contact_write();
-- == both
insert into contact values ({k}, {t}, {u})
update contact set name = {t} where id = {o}
update contact set phone = {u} where id = {o}
delete from contact where id = {o}
-- == loses
public.contact: contact
-- == may be refused
contact
