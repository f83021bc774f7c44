-- Rules that write elsewhere come and go.
-- == setup
create table a (id int primary key, v text);
create table log (id int primary key, v text);
insert into a select i, 'v' || i from generate_series(1, 30) i;
create rule log_delete as on delete to a do also insert into log values (old.id, old.v);
-- == quiet
a deleted row leaves no trace afterwards
-- == migrate
drop rule log_delete on a;
create rule no_delete as on delete to log do instead nothing;
-- == old
delete from a where id = {o}
-- == new
delete from a where id = {o}
-- was (other counts): alter table a disable rule log_delete; delete from a where id = {o}; alter table a enable rule log_delete
-- == both
insert into a values ({k}, {t})
update a set v = {t} where id = {o}
update log set v = {t} where id = {o}
