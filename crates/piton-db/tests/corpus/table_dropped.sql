-- A table is dropped; what was in it stays in the golden copy, and what referred to it is no hindrance.
-- == setup
create table tag (id int primary key, name text);
create table post (id int primary key, title text, tag_id int references tag);
insert into tag select i, 't' || i from generate_series(1, 30) i;
insert into post select i, 'p' || i, i from generate_series(1, 30) i;
-- == migrate
alter table post drop column tag_id;
drop table tag;
-- == old
insert into tag values ({k:tag}, {t})
update tag set name = {t} where id = {o:tag}
insert into post select {k}, {t}, {o:tag} where exists (select from tag where id = {o:tag})
-- == new
insert into post values ({k}, {t})
-- was: insert into post (id, title) values ({k}, {t})
-- == both
update post set title = {t} where id = {o}
delete from post where id = {o}
