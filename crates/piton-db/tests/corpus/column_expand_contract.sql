-- A rename without a pause, over three revisions: a second column with triggers that keep both alike, a backfill, the old one goes.
-- == setup
create table member (id int primary key, mail text, age int);
insert into member select i, 'm' || i, i from generate_series(1, 30) i;
-- == migrate
alter table member add column email text;
create function member_sync() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    new.email := coalesce(new.email, new.mail);
    new.mail := coalesce(new.mail, new.email);
  elsif new.mail is distinct from old.mail then
    new.email := new.mail;
  elsif new.email is distinct from old.email then
    new.mail := new.email;
  end if;
  return new;
end $$;
create trigger member_sync before insert or update on member for each row execute function member_sync();
-- == migrate
update member set email = mail where email is distinct from mail;
-- == migrate
drop trigger member_sync on member;
drop function member_sync();
alter table member drop column mail;
-- == old
insert into member (id, mail, age) values ({k}, {t}, {i})
update member set mail = {t} where id = {o}
update member set mail = null where id = {o}
-- == new
insert into member (id, email, age) values ({k}, {t}, {i})
-- was: insert into member (id, mail, age) values ({k}, {t}, {i})
update member set email = {t} where id = {o}
-- was: update member set mail = {t} where id = {o}
-- == both
update member set age = {i} where id = {o}
delete from member where id = {o}
-- == loses
public.member.mail: mail
-- == may be refused
member
