-- Texts with spaces at their ends become char(n), in which these mean nothing.
-- == setup
create table seat (id int primary key, row text, n int);
insert into seat select i, 'r' || i || repeat(' ', i % 3) from generate_series(1, 30) i;
-- == migrate
alter table seat alter row type char(6);
-- == old
insert into seat values ({k}, 'x{i} ')
update seat set row = 'y{i}  ' where id = {o}
-- == quiet
spaces at the end mean nothing afterwards
-- == new
insert into seat (id, row) values ({k}, 'x{i}')
-- was: insert into seat (id, row) values ({k}, 'x{i}')
update seat set row = 'q{i}' where id = {o}
-- was: update seat set row = 'q{i}' where id = {o}
update seat set n = {i} where id = {o}
-- was: update seat set n = {i} where id = {o}
-- == may be refused
row
