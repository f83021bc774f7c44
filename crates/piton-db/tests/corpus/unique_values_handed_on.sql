-- A unique value goes from one row to another within a transaction, in which one is deleted.
-- == setup
create table phone (id int primary key, number text unique, n int);
insert into phone select i, 'n' || i, i from generate_series(1, 30) i;
-- == migrate
alter table phone alter n type bigint;
-- == both
insert into phone values ({k}, 'n{k}', {i})
with gone as (delete from phone where id = {o} returning id) insert into phone select {k}, 'n{o}', {i} from gone
update phone set number = 'x{o}' where id = {o}; update phone set number = 'n{k2}' where id = {p}
update phone set n = {i} where id = {o}
