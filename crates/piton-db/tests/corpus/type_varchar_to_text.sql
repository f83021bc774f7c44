-- A varchar becomes text, and all that is written still fits.
-- == setup
create table song (id int primary key, title varchar(30) not null, artist varchar);
insert into song select i, 't' || i, 'a' || i from generate_series(1, 30) i;
-- == migrate
alter table song alter title type text, alter artist type text;
-- == both
insert into song values ({k}, {t}, {u})
update song set title = {t} where id = {o}
update song set artist = {t} || '   ' where id = {o}
delete from song where id = {o}
