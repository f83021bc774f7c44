-- The migration makes rows of its own, and the app changes and deletes them: they have no place in the golden copy.
-- == setup
create table label (id int primary key, name text, n int);
insert into label select i, 'l' || i, i from generate_series(1, 30) i;
-- == migrate
insert into label select i, 'made ' || i, 0 from generate_series(200001, 200230) i;
-- == both
insert into label values ({k}, {t}, {i})
update label set name = {t} where id = {o}
delete from label where id = {o}
-- == new
update label set n = {i} where id = 200000 + {o:made}
-- was:
delete from label where id = 200100 + {o:gone} and {i} = 0
-- was:
delete from label where id = 200200 + {o:back}; insert into label values (200200 + {o:back}, {t}, {i})
-- was (other counts): insert into label values (200200 + {o:back}, {t}, {i}) on conflict (id) do update set name = excluded.name, n = excluded.n
-- == aside
public.label
