-- A real becomes a double: 0.1 is another number then.
-- == setup
create table gauge (id int primary key, v real, note text);
insert into gauge select i, i / 10.0, 'n' || i from generate_series(1, 30) i;
insert into gauge values (40, 'NaN', 'a'), (41, '-0', 'b'), (42, '-Infinity', 'c'), (43, 1e-45, 'd');
-- == migrate
alter table gauge alter v type double precision;
-- == old
insert into gauge values ({k}, {n} / 7.0, {t})
update gauge set v = 0.1 * {i} where id = {o}
-- == quiet
a number that is not a real is another one afterwards
-- == new
insert into gauge values ({k}, ({n} / 7.0)::real, {t})
-- was: insert into gauge values ({k}, {n} / 7.0, {t})
update gauge set v = (0.1 + {i})::real where id = {o}
-- was: update gauge set v = 0.1 + {i} where id = {o}
-- == both
update gauge set v = (array['NaN', 'Infinity', '-Infinity', '-0', '3.4028235e38'])[1 + {i} % 5]::real where id = {o}
update gauge set note = {t} where id = {o}
delete from gauge where id = {o}
