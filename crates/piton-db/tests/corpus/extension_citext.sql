-- A text becomes citext, in which capitals make no difference.
-- == setup
create table member (id int primary key, mail text not null, name text);
create unique index member_mail on member (lower(mail));
insert into member select i, 'M' || i, 'n' || i from generate_series(1, 30) i;
-- == migrate
create extension citext;
drop index member_mail;
alter table member alter mail type citext;
create unique index member_mail on member (mail);
-- == both
insert into member values ({k}, 'MaiL{k}', {t})
update member set mail = upper(mail) where id = {o}
update member set mail = lower(mail), name = {t} where id = {o}
update member set mail = 'x{k2}' where id = {o}
delete from member where id = {o}
