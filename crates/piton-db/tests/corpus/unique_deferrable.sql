-- A unique constraint that is looked at at the end: rows exchange their places within a statement.
-- == setup
create table place (id int primary key, pos int not null unique deferrable initially deferred, v text);
insert into place select i, i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table place rename v to label;
-- == old
insert into place values ({k}, {k}, {t})
update place set v = {t} where id = {o}
-- == new
insert into place (id, pos, label) values ({k}, {k}, {t})
-- was: insert into place values ({k}, {k}, {t})
-- == both
update place a set pos = b.pos from place b where (a.id, b.id) in (({o}, {p}), ({p}, {o}))
update place set pos = -pos where id in ({o}, {p})
delete from place where id = {o}
