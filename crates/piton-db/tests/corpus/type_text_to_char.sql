-- Texts with spaces at their ends become char(n), in which these mean nothing.
-- == setup
create table seat (id int primary key, row text);
insert into seat select i, 'r' || i || repeat(' ', i % 3) from generate_series(1, 30) i;
-- == migrate
alter table seat alter row type char(6);
-- == old
insert into seat values ({k}, 'x{i} ')
update seat set row = 'y{i}  ' where id = {o}
-- == refused
row
