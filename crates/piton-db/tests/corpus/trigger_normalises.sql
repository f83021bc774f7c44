-- A trigger that folds what is written goes: the old structure would have folded it.
-- == setup
create table tag (id int primary key, name text);
create function fold() returns trigger language plpgsql as $$ begin new.name := lower(new.name); return new; end $$;
create trigger fold before insert or update on tag for each row execute function fold();
alter table tag enable always trigger fold;
insert into tag select i, 'Tag' || i from generate_series(1, 30) i;
-- == migrate
drop trigger fold on tag;
-- == both
insert into tag values ({k}, lower({t}))
update tag set name = lower({t}) where id = {o}
delete from tag where id = {o}
-- == may be refused
fold
