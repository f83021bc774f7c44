-- A column may be empty from now on: such rows have no place in the old structure, until they are filled.
-- == setup
create table book (id int primary key, title text not null, isbn text not null);
insert into book select i, 't' || i, 'i' || i from generate_series(1, 30) i;
-- == migrate
alter table book alter isbn drop not null;
-- == both
insert into book values ({k}, {t}, {u})
update book set isbn = {t} where id = {o}
delete from book where id = {o}
-- == old
update book set title = {t} where id = {o}
-- == new
insert into book (id, title) values ({k:NONE}, {t})
-- was:
insert into book (id, title) values ({k:LATER}, {t}); update book set isbn = 'i{n}', title = {u} where title = {t} and id = {k:LATER}
-- was (other counts): insert into book values ({k:LATER}, {u}, 'i{n}')
-- == aside
public.book
-- == may be refused
isbn
