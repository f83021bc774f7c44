-- A function through which the app writes is replaced by one that takes more.
-- == setup
create table ledger (id int primary key, amount numeric, note text);
insert into ledger select i, i, 'n' || i from generate_series(1, 30) i;
create function book(int, numeric) returns void language sql as $$ insert into ledger values ($1, $2, 'booked') $$;
create procedure change(int, numeric) language plpgsql as $$ begin update ledger set amount = $2 where id = $1; end $$;
-- == migrate
drop function book(int, numeric);
create function book(id int, amount numeric, note text default 'booked') returns void language sql as $$ insert into ledger values ($1, $2, $3) $$;
create or replace procedure change(int, numeric) language plpgsql as $$ begin update ledger set amount = $2, note = coalesce(note, '') where id = $1; end $$;
-- == both
select book({k}, {n} / 100.0)
call change({o}, {n}); update ledger set amount = amount + 1 where id = {o}
delete from ledger where id = {o}
-- == new
select book({k}, {n}, {t})
-- was: insert into ledger values ({k}, {n}, {t})
