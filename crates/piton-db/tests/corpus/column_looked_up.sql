-- A text becomes a reference to a table of its values.
-- == setup
create table car (id int primary key, color text, name text);
insert into car select i, (array['red', 'green', 'blue'])[1 + i % 3], 'n' || i from generate_series(1, 30) i;
-- == migrate
create table color (id int generated always as identity primary key, name text unique not null);
lock table car;
insert into color (name) select distinct color from car where color is not null order by 1;
alter table car add column color_id int references color;
update car set color_id = c.id from color c where c.name = car.color;
alter table car drop column color;
-- == old
insert into car values ({k}, (array['red', 'green', 'blue'])[1 + {i} % 3], {t})
update car set color = 'blue' where id = {o}
-- == new
insert into car (id, color_id, name) select {k:NEW}, id, {t} from color where name = 'red'
-- was: insert into car (id, name) values ({k:NEW}, {t})
update car set name = {t} where id = {o}
-- was: update car set name = {t} where id = {o}
delete from car where id = {o}
-- was: delete from car where id = {o}
-- == loses
public.car.color: color
-- == may be refused
color
