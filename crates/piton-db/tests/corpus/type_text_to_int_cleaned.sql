-- A text becomes a number, after the rows with texts that are none are removed.
-- == setup
create table count (id int primary key, v text, note text);
insert into count select i, i::text, 'n' || i from generate_series(1, 30) i;
insert into count values (31, 'none', 'a'), (32, '', 'b'), (33, null, 'c');
-- == quiet
what the app writes meanwhile must be a number
-- == migrate
delete from count where v !~ '^[0-9]+$';
alter table count alter v type int using v::int;
-- == old
insert into count values ({k}, '{n}', {t})
update count set v = '{n}' where id = {o}
-- == both
update count set note = {t} where id = {o}
delete from count where id = {o}
-- == new
insert into count values ({k}, {n}, {t})
-- was: insert into count values ({k}, '{n}', {t})
update count set v = {n} where id = {o}
-- was: update count set v = '{n}' where id = {o}
