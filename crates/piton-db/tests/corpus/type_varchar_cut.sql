-- A text is cut to fit a shorter column: what was cut off is gone.
-- == setup
create table motto (id int primary key, words text);
insert into motto select i, repeat('w' || i, 9) from generate_series(1, 30) i;
-- == migrate
alter table motto alter words type varchar(12) using left(words, 12);
-- == old
insert into motto values ({k}, {t} || {u})
update motto set words = {t} where id = {o}
-- == refused
words
