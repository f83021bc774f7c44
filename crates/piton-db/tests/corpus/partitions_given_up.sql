-- A table in partitions becomes an ordinary one.
-- == setup
create table note (id int, kind text, v text, primary key (id, kind)) partition by list (kind);
create table note_a partition of note for values in ('a');
create table note_rest partition of note default;
insert into note select i, (array['a', 'b'])[1 + i % 2], 'v' || i from generate_series(1, 30) i;
-- == migrate
lock table note;
create table note_new (id int, kind text, v text, primary key (id, kind));
insert into note_new select * from note;
drop table note;
alter table note_new rename to note;
-- == both
insert into note values ({k}, 'a', {t})
insert into note values ({k}, 'c{i}', {t})
update note set v = {t} where id = {o}
update note set kind = 'a' where id = {o}
update note set kind = 'b' where id = {o}
delete from note where id = {o}
