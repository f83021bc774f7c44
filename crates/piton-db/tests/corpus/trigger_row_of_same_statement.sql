-- An AFTER trigger changes rows that the same statement has just inserted.
-- == setup
create table batch (id int primary key, v text, place int);
insert into batch select i, 'v' || i, 0 from generate_series(1, 30) i;
create function place() returns trigger language plpgsql as $$
begin
  update batch set place = new.id % 10 where id = new.id and place is null;
  return null;
end $$;
create trigger place after insert on batch for each row execute function place();
-- == migrate
alter table batch rename v to label;
-- == old
insert into batch values ({k}, {t}), ({k2}, {u})
update batch set v = {t} where id = {o}
-- == new
insert into batch values ({k}, {t}), ({k2}, {u})
-- was: insert into batch values ({k}, {t}), ({k2}, {u})
update batch set label = {t} where id = {o}
-- was: update batch set v = {t} where id = {o}
-- == both
delete from batch where id = {o}
