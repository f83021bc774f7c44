-- A text is cut to fit a shorter column: what was cut off is gone.
-- == setup
create table motto (id int primary key, words text, n int);
insert into motto select i, repeat('w' || i, 9) from generate_series(1, 30) i;
-- == migrate
alter table motto alter words type varchar(12) using left(words, 12);
-- == old
insert into motto values ({k}, {t} || {u})
update motto set words = {t} where id = {o}
-- == quiet
a text that is too long is refused or cut afterwards
-- == new
insert into motto (id, words) values ({k}, '{s}{i}')
-- was: insert into motto (id, words) values ({k}, '{s}{i}')
update motto set words = '{s}' where id = {o}
-- was: update motto set words = '{s}' where id = {o}
update motto set n = {i} where id = {o}
-- was: update motto set n = {i} where id = {o}
-- == may be refused
words
