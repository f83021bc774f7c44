-- A table whose changes are told by a unique index and not by its key; a revision changes that.
-- == setup
create table doc (id int primary key, code text not null, v text);
create unique index doc_code on doc (code);
alter table doc replica identity using index doc_code;
insert into doc select i, 'c' || i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table doc rename v to w;
-- == migrate
alter table doc replica identity default;
-- == old
insert into doc values ({k}, 'c{k}', {t})
update doc set v = {t} where id = {o}
-- == new
insert into doc (id, code, w) values ({k}, 'c{k}', {t})
-- was: insert into doc values ({k}, 'c{k}', {t})
update doc set w = {t} where id = {o}
-- was: update doc set v = {t} where id = {o}
-- == both
update doc set code = 'd{k2}' where id = {o}
update doc set id = {k2} where id = {o}
delete from doc where id = {o}
-- == may be refused
doc
