-- Two tables of the same columns exchange their names.
-- == setup
create table here (id int primary key, v text);
create table there (id int primary key, v text);
insert into here select i, 'h' || i from generate_series(1, 30) i;
insert into there select i, 't' || i from generate_series(1, 30) i;
-- == quiet
here and there are exchanged afterwards
-- == migrate
alter table here rename to nowhere;
alter table there rename to here;
alter table nowhere rename to there;
-- == old
insert into here values ({k}, {t})
update here set v = {t} where id = {o}
update there set v = {t} where id = {o}
delete from there where id = {o}
insert into there values ({k}, {t})
-- == new
insert into there values ({k}, {t})
-- was: insert into here values ({k}, {t})
insert into here values ({k}, {t})
-- was: insert into there values ({k}, {t})
update there set v = {t} where id = {o}
-- was: update here set v = {t} where id = {o}
update here set v = {t} where id = {o}
-- was: update there set v = {t} where id = {o}
delete from here where id = {o}
-- was: delete from there where id = {o}
-- == may be refused
here
