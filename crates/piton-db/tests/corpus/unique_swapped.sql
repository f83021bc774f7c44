-- A unique constraint that is looked at at once: rows exchange their values by way of a third one.
-- == setup
create table seat (id int primary key, number int unique, guest text unique);
insert into seat select i, i, 'g' || i from generate_series(1, 30) i;
-- == migrate
alter table seat add column meal text;
-- == both
insert into seat (id, number, guest) values ({k}, {k}, 'g{k}')
update seat set number = null where id = {o}; update seat set number = {k2} where id = {p}; update seat set number = {k} where id = {o}
update seat set guest = null where id = {o}; update seat set guest = 'h{k2}' where id = {o}
update seat set id = {k}, number = {k} where id = {o}
delete from seat where id = {o}; insert into seat (id, number, guest) values ({o}, {k2}, 'i{k2}')
