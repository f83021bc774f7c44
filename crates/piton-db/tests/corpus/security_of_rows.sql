-- Row security is put on a table, forced on its owner.
-- == setup
do $$ begin create role corpus_tenant; exception when duplicate_object or unique_violation then null; end $$;
create table secret (id int primary key, tenant int, v text);
grant all on secret to corpus_tenant;
insert into secret select i, i % 3, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table secret enable row level security;
alter table secret force row level security;
create policy own on secret using (tenant = current_setting('app.tenant', true)::int);
-- == both
set local role corpus_tenant; set local app.tenant = {w}; insert into secret values ({k}, {w}, {t}); reset role
set local role corpus_tenant; set local app.tenant = {w}; update secret set v = {t} where id = {o}; reset role
update secret set v = {t} where id = {o}
set local role corpus_tenant; set local app.tenant = {w}; delete from secret where id = {o}; reset role
