-- A backfill in batches that commits in between, in a procedure.
-- == setup
create table line (id int primary key, v text, v2 text);
insert into line select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
create procedure fill() language plpgsql as $$
declare filled int;
begin
  loop
    update line set v2 = 'filled' where id in (select id from line where v2 is null order by id limit 50 for update skip locked);
    get diagnostics filled = row_count;
    exit when filled = 0;
    commit;
  end loop;
end $$;
-- == migrate
create index concurrently line_v on line (v);
call fill();
drop procedure fill();
-- == both
insert into line (id, v) values ({k}, {t})
update line set v = {t} where id = {o}
update line set v2 = 'own{i}' where id = {o}
delete from line where id = {o}
-- == may be refused
line
