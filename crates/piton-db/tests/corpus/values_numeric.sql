-- Numbers at the ends of what there is: NaN, infinities, -0, all digits, and of every length.
-- == setup
create table num (id int primary key, a numeric, b numeric(30, 10), c double precision, d real, e bigint, f smallint, g money);
insert into num select i, i, i, i, i, i, i, i from generate_series(1, 30) i;
-- == migrate
alter table num rename a to any_number;
alter table num add column h int;
-- == old
update num set a = (array['NaN', 'Infinity', '-Infinity', '0.000000000000000000000000000000000001', '1e200', '-0', '1.10', '100'])[1 + {i} % 8]::numeric where id = {o}
-- == new
update num set any_number = (array['NaN', 'Infinity', '-Infinity', '0.000000000000000000000000000000000001', '1e200', '-0', '1.10', '100'])[1 + {i} % 8]::numeric where id = {o}
-- was: update num set a = (array['NaN', 'Infinity', '-Infinity', '0.000000000000000000000000000000000001', '1e200', '-0', '1.10', '100'])[1 + {i} % 8]::numeric where id = {o}
-- == both
insert into num (id, c) values ({k}, {n} / 7.0::float8)
update num set b = (array['NaN', '99999999999999999999.9999999999', '-0.0000000001', '1.10'])[1 + {i} % 4]::numeric where id = {o}
update num set c = (array['NaN', 'Infinity', '-Infinity', '-0', '0', '5e-324', '1.7976931348623157e308', '0.1', '0.30000000000000004'])[1 + {i} % 9]::float8 where id = {o}
update num set d = (array['NaN', 'Infinity', '-Infinity', '-0', '0', '1e-45', '3.4028235e38', '0.1'])[1 + {i} % 8]::real where id = {o}
update num set e = (array[-9223372036854775808, 9223372036854775807, 0])[1 + {i} % 3], f = (array[-32768, 32767])[1 + {j} % 2] where id = {o}
update num set g = {n}::money / 7, id = {k} where id = {o}
delete from num where id = {o}
