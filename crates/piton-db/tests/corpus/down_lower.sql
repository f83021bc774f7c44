-- Addresses are folded to small letters, and what people had written goes on in a column of its own.
-- == setup
create table member (id int primary key, mail text not null unique, n int);
insert into member select i, 'User' || i || '@Example.org', i from generate_series(1, 30) i;
-- == migrate
alter table member add column mail_as_written text;
update member set mail_as_written = mail, mail = lower(mail);
alter table member alter mail_as_written set not null;
-- == old
insert into member values ({k}, 'New{k}@Example.org', {i})
update member set mail = {t} || '{o}{w}' where id = {o}
-- == quiet
addresses are in small letters afterwards
-- == new
insert into member values ({k}, 'new{k}@example.org', {i}, 'New{k}@Example.org')
-- was: insert into member values ({k}, 'New{k}@Example.org', {i})
update member set mail = lower({t} || '{o}{w}'), mail_as_written = {t} || '{o}{w}' where id = {o}
-- was: update member set mail = {t} || '{o}{w}' where id = {o}
-- == both
update member set n = {i} where id = {o}
delete from member where id = {o}
-- == down
member.mail = mail_as_written
