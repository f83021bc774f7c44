-- A domain with a check takes a text's place.
-- == setup
create table person (id int primary key, mail text, age int);
insert into person select i, 'm' || i || '@x', i from generate_series(1, 30) i;
-- == migrate
create domain mail as text check (value like '%@%' or value = '');
create domain age as int not null check (value >= 0);
alter table person alter mail type mail, alter age type age;
-- == both
insert into person values ({k}, {t} || '@' || {u}, {i})
update person set mail = '@' || {t} where id = {o}
update person set age = {n} where id = {o}
delete from person where id = {o}
