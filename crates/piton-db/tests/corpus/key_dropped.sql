-- A table loses its key: the log does not tell what is changed afterwards, and triggers do.
-- == setup
create table fact (id int primary key, v text);
insert into fact select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table fact drop constraint fact_pkey;
-- == both
insert into fact values ({k}, {t})
update fact set v = {t} where id = {o}
-- == refused by the log
fact
