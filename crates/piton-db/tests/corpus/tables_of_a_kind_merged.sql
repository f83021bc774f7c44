-- Two tables become one with a column that tells them apart; their keys overlap.
-- == setup
create table cat (id int primary key, name text);
create table dog (id int primary key, name text);
insert into cat select i, 'c' || i from generate_series(1, 30) i;
insert into dog select i, 'd' || i from generate_series(1, 30) i;
-- == migrate
lock table cat, dog;
create table animal (kind text, id int, name text, primary key (kind, id));
insert into animal select 'cat', id, name from cat union all select 'dog', id, name from dog;
drop table cat, dog;
-- == old
insert into cat values ({k}, {t})
update cat set name = {t} where id = {o}
update dog set name = {t} where id = {o:dog}
delete from dog where id = {o:dog}
insert into dog values ({k:dog}, {u})
-- == new
insert into animal values ('dog', {k:dog}, {u})
-- was: insert into dog values ({k:dog}, {u})
insert into animal values ('cat', {k}, {t})
-- was: insert into cat values ({k}, {t})
update animal set name = {t} where kind = 'cat' and id = {o}
-- was: update cat set name = {t} where id = {o}
update animal set name = {t} where kind = 'dog' and id = {o:dog}
-- was: update dog set name = {t} where id = {o:dog}
delete from animal where kind = 'dog' and id = {o:dog}
-- was: delete from dog where id = {o:dog}
-- == loses
public.cat: cat
public.dog: dog
-- == may be refused
cat
