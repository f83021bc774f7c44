-- Rows are only marked as deleted from now on: to the old app they are there again.
-- == setup
create table post (id int primary key, title text);
insert into post select i, 't' || i from generate_series(1, 30) i;
insert into post select 400000 + i, 'soft' || i from generate_series(1, 30) i;
-- == migrate
alter table post rename to all_posts;
alter table all_posts add column deleted bool not null default false;
create view post as select id, title from all_posts where not deleted;
-- == old
delete from post where id = {o}
-- == both
insert into post values ({k}, {t})
update post set title = {t} where id = {o}
-- == new
update all_posts set deleted = true where id = 400000 + {o:soft}
-- was:
