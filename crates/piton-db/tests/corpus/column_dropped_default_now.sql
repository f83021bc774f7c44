-- A dropped column whose default is the time: a row that came afterwards has another time in the golden copy.
-- == setup
create table visit (id int primary key, page text, at timestamptz default clock_timestamp());
insert into visit select i, 'p' || i, '2026-01-01' from generate_series(1, 30) i;
-- == migrate
alter table visit drop column at;
-- == old
insert into visit values ({k}, {t}, timestamptz '2026-02-01 00:00 UTC' + {n} * interval '1 s')
update visit set page = {t} where id = {o}
-- == new
insert into visit values ({k}, {t})
-- was: insert into visit (id, page) values ({k}, {t})
update visit set page = {t} where id = {o}
-- was: update visit set page = {t} where id = {o}
delete from visit where id = {o}
-- was: delete from visit where id = {o}
-- == loses
public.visit.at: at
