-- Owners and privileges change, and the app writes as another role.
-- == setup
do $$ begin create role corpus_owner; exception when duplicate_object or unique_violation then null; end $$;
do $$ begin create role corpus_app; exception when duplicate_object or unique_violation then null; end $$;
create table doc (id int primary key, v text);
grant insert, update, delete, select on doc to corpus_app;
insert into doc select i, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table doc owner to corpus_owner;
revoke delete on doc from corpus_app;
grant references (id) on doc to corpus_app;
alter table doc add column w text;
grant update (w) on doc to corpus_app;
-- == old
set local role corpus_app; delete from doc where id = {o}; reset role
-- == both
set local role corpus_app; insert into doc (id, v) values ({k}, {t}); reset role
set local role corpus_app; update doc set v = {t} where id = {o}; reset role
delete from doc where id = {o}
