-- A column is dropped; what stands in the golden copy stays there.
-- == setup
create table account (id int primary key, name text, legacy text default 'none');
insert into account select i, 'n' || i, 'legacy ' || i from generate_series(1, 30) i;
-- == migrate
alter table account drop column legacy;
-- == old
insert into account (id, name, legacy) values ({k}, {t}, {u})
update account set legacy = {t} where id = {o}
update account set name = {t} where id = {o}
-- == new
insert into account values ({k}, {t})
-- was: insert into account (id, name) values ({k}, {t})
update account set name = {t} where id = {o}
-- was: update account set name = {t} where id = {o}
-- == both
delete from account where id = {o}
update account set id = {k} where id = {o}
