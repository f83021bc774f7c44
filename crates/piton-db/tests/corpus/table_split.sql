-- Columns of a table move into a second one.
-- == setup
create table profile (id int primary key, name text, bio text, avatar text);
insert into profile select i, 'n' || i, 'b' || i, 'a' || i from generate_series(1, 30) i;
-- == migrate
lock table profile;
create table profile_text (profile_id int primary key references profile on update cascade on delete cascade, bio text, avatar text);
insert into profile_text select id, bio, avatar from profile;
alter table profile drop column bio, drop column avatar;
-- == old
insert into profile values ({k}, {t}, {u}, 'a{i}')
update profile set bio = {t} where id = {o}
update profile set name = {t}, avatar = {u} where id = {o}
-- == new
insert into profile values ({k}, {t}); insert into profile_text values ({k}, {u}, 'a{i}')
-- was (other counts): insert into profile values ({k}, {t}, {u}, 'a{i}')
update profile_text set bio = {t} where profile_id = {o}
-- was: update profile set bio = {t} where id = {o}
-- == both
update profile set name = {t} where id = {o}
delete from profile where id = {o}
-- == loses
public.profile.bio: bio
public.profile.avatar: avatar
-- == may be refused
profile
