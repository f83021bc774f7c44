-- A code was the key; a number takes its place, and the code stays unique.
-- == setup
create table country (code text primary key, name text);
create table town (id int primary key, country text references country on update cascade, name text);
insert into country select 'c' || i, 'n' || i from generate_series(1, 30) i;
insert into town select i, 'c' || i, 't' || i from generate_series(1, 30) i;
-- == migrate
alter table town drop constraint town_country_fkey;
alter table country add column id int generated always as identity;
alter table country drop constraint country_pkey, add primary key (id), add constraint country_code unique (code);
alter table town add foreign key (country) references country (code) on update cascade;
-- == both
insert into country (code, name) values ('c{k}', {t})
update country set name = {t} where code = 'c{o}'
update country set code = 'd{k2}' where code = 'c{o}'
update town set name = {t} where id = {o:town}
insert into town select {k:town}, code, {t} from country where code = 'c{o}'
-- == may be refused
country
