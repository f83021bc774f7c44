-- A large text is stored in halves: one that is changed alone is told without the other.
-- == setup
create table page (id int primary key, body text, n int);
alter table page alter body set storage external;
insert into page select i, repeat('a' || i, 2000) || '|' || repeat('b' || i, 2000), i from generate_series(1, 30) i;
-- == migrate
alter table page add column head text, add column tail text;
alter table page alter head set storage external, alter tail set storage external;
update page set head = split_part(body, '|', 1), tail = split_part(body, '|', 2);
alter table page drop column body;
-- == old
insert into page values ({k}, repeat('x{i}', 3000) || '|y', {i})
update page set body = 'small{j}|' || repeat('z', 5000) where id = {o}
-- == new
insert into page values ({k}, {i}, repeat('p{i}', 2000), repeat('q', 3000))
-- was: insert into page values ({k}, repeat('p{i}', 2000) || '|' || repeat('q', 3000), {i})
update page set tail = repeat('t{j}', 2500) where id = {o}
-- was: update page set body = split_part(body, '|', 1) || '|' || repeat('t{j}', 2500) where id = {o}
update page set head = 'h{j}' where id = {o}
-- was: update page set body = 'h{j}|' || split_part(body, '|', 2) where id = {o}
update page set n = {i} where id = {o}
-- was: update page set n = {i} where id = {o}
delete from page where id = {o}
-- was: delete from page where id = {o}
-- == down
page.body = head || '|' || tail
