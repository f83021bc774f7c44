-- Values are rewritten in place: what the app writes to other columns does not carry them back.
-- == setup
create table ticket (id int primary key, state text, title text);
insert into ticket select i, (array['new', 'open', 'closed'])[1 + i % 3], 't' || i from generate_series(1, 30) i;
-- == migrate
update ticket set state = 'todo' where state = 'new';
-- == old
insert into ticket values ({k}, 'new', {t})
-- == new
insert into ticket values ({k}, 'todo', {t})
-- was: insert into ticket values ({k}, 'todo', {t})
-- == both
update ticket set title = {t} where id = {o}
update ticket set state = 'closed' where id = {o}
delete from ticket where id = {o}
-- == may be refused
state
