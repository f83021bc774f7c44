-- Views through which the app writes are changed, renamed and dropped.
-- == setup
create table base (id int primary key, a text, b text, hidden bool default false);
insert into base select i, 'a' || i, 'b' || i from generate_series(1, 30) i;
create view shown as select id, a, b from base where not hidden with check option;
create view extra as select id, hidden from base;
-- == migrate
drop view extra;
alter view shown rename to visible;
create or replace view visible as select id, a, b, hidden from base where not hidden;
-- == old
insert into shown values ({k}, {t}, {u})
update shown set a = {t} where id = {o}
update extra set hidden = true where id = {o}
-- == new
insert into visible (id, a, b) values ({k}, {t}, {u})
-- was: insert into shown values ({k}, {t}, {u})
update visible set a = {t} where id = {o}
-- was: update shown set a = {t} where id = {o}
update visible set hidden = true where id = {o}
-- was (other counts): update extra set hidden = true where id = {o}
delete from visible where id = {o}
-- was: delete from shown where id = {o}
