-- Three columns each take the next one's name.
-- == setup
create table slot (id int primary key, first text, second text, third text);
insert into slot select i, '1-' || i, '2-' || i, '3-' || i from generate_series(1, 30) i;
-- == quiet
first, second and third are other columns afterwards
-- == migrate
alter table slot rename third to fourth;
alter table slot rename second to third;
alter table slot rename first to second;
-- == old
insert into slot values ({k}, {t}, {u}, {i})
update slot set first = {t} where id = {o}
update slot set second = {t}, third = {u} where id = {o}
-- == new
insert into slot (id, second, third, fourth) values ({k}, {t}, {u}, {i})
-- was: insert into slot (id, first, second, third) values ({k}, {t}, {u}, {i})
update slot set second = {t} where id = {o}
-- was: update slot set first = {t} where id = {o}
update slot set third = {t}, fourth = {u} where id = {o}
-- was: update slot set second = {t}, third = {u} where id = {o}
-- == both
delete from slot where id = {o}
-- == may be refused
slot
