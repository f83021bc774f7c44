-- A table loses its key: what is changed afterwards is known by nothing.
-- == setup
create table fact (id int primary key, v text);
insert into fact select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table fact drop constraint fact_pkey;
-- == old
insert into fact values ({k}, {t})
update fact set v = {t} where id = {o}
-- == refused
fact
