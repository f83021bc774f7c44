-- A real becomes a double, and -0 becomes 0: equal, and another text.
-- == setup
create table zero (id int primary key, v real, note text);
insert into zero select i, i / 10.0, 'n' || i from generate_series(1, 30) i;
insert into zero values (40, 'NaN', 'a'), (41, '-0', 'b'), (42, '-Infinity', 'c'), (43, 1e-45, 'd');
-- == migrate
alter table zero alter v type double precision;
-- == old
insert into zero values ({k}, {n} / 7.0, {t})
update zero set v = 0.1 * {i} where id = {o}
-- == quiet
a number that is not a real is another one afterwards
-- == new
insert into zero values ({k}, ({n} / 7.0)::real, {t})
-- was: insert into zero values ({k}, {n} / 7.0, {t})
update zero set v = (0.1 * {i})::real where id = {o}
-- was: update zero set v = 0.1 * {i} where id = {o}
-- == both
update zero set v = (array['NaN', 'Infinity', '-Infinity', '-0', '3.4028235e38'])[1 + {i} % 5]::real where id = {o}
update zero set note = {t} where id = {o}
delete from zero where id = {o}
