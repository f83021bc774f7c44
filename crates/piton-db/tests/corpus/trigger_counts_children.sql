-- A trigger keeps a count in the parent, which changes within the statement that brings the children.
-- == setup
create table post (id int primary key, title text, comments int not null default 0);
create table comment (id int primary key, post int references post on delete cascade, body text);
insert into post select i, 'p' || i, 1 from generate_series(1, 30) i;
insert into comment select i, i, 'c' || i from generate_series(1, 30) i;
create function count_comments() returns trigger language plpgsql as $$
begin
  update post set comments = comments + case tg_op when 'INSERT' then 1 else -1 end where id = coalesce(new.post, old.post);
  return null;
end $$;
create trigger count_comments after insert or delete on comment for each row execute function count_comments();
-- == migrate
alter table post rename title to name;
alter table comment rename to reply;
-- == old
insert into post (id, title) values ({k}, {t})
insert into comment select v, id, {t} from post, (values ({k:comment}), ({k2:comment})) v (v) where id = {o} for key share
delete from comment where id = {o:comment}
-- == new
insert into post (id, name) values ({k}, {t})
-- was: insert into post (id, title) values ({k}, {t})
insert into reply select v, id, {t} from post, (values ({k:comment}), ({k2:comment})) v (v) where id = {o}
-- was: insert into comment select v, id, {t} from post, (values ({k:comment}), ({k2:comment})) v (v) where id = {o}
delete from reply where id = {o:comment}
-- was: delete from comment where id = {o:comment}
-- == both
delete from post where id = {o} and id > 30
-- == may be refused
post
