-- Indexes are built and dropped without locks, one by one, with a change of values between.
-- == setup
create table person (id int primary key, mail text, state text, n int);
create index person_n on person (n);
insert into person select i, 'M' || i, case when i % 2 = 0 then 'on' end, i from generate_series(1, 30) i;
-- == migrate
create index concurrently person_mail on person (lower(mail));
drop index concurrently person_n;
update person set state = 'off' where state is null;
create unique index concurrently if not exists person_id_n on person (id, n) include (mail) where n > 0;
alter table person add column tag text;
reindex index concurrently person_mail;
-- == old
insert into person (id, mail, n) values ({k}, {t}, {i})
-- == may be refused
person
-- == both
insert into person (id, mail, state, n) values ({k}, {t}, 's{i}', {i})
update person set mail = {t} where id = {o}
update person set state = 's{j}', n = {i} where id = {o}
delete from person where id = {o}
