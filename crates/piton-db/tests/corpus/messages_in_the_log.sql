-- The app writes messages of its own into the log, within transactions and without.
-- == setup
create table doc (id int primary key, v text);
insert into doc select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table doc rename v to w;
-- == old
insert into doc values ({k}, {t})
-- == new
insert into doc values ({k}, {t})
-- was: insert into doc values ({k}, {t})
update doc set w = {t} where id = {o}
-- was: update doc set v = {t} where id = {o}
-- == both
select pg_logical_emit_message(true, 'app', {t}); delete from doc where id = {o}
select pg_logical_emit_message(false, 'table public.doc: DELETE: id[integer]:1', E'\nCOMMIT 7\n' || {t})
