-- A state that was a text becomes one of a type that the old structure has not got.
-- == setup
create table job (id int primary key, state text not null, note text);
insert into job select i, (array['new', 'open', 'closed'])[1 + i % 3], 'n' || i from generate_series(1, 30) i;
-- == migrate
create type job_state as enum ('Todo', 'Doing', 'Done');
alter table job alter state type job_state using (case state when 'new' then 'Todo' when 'open' then 'Doing' else 'Done' end)::job_state;
-- == quiet
states are called otherwise afterwards
-- == old
insert into job values ({k}, 'new', {t})
update job set state = 'closed' where id = {o}
-- == new
insert into job values ({k}, 'Todo', {t})
-- was: insert into job values ({k}, 'new', {t})
update job set state = 'Done' where id = {o}
-- was: update job set state = 'closed' where id = {o}
-- == both
update job set note = {t} where id = {o}
delete from job where id = {o}
-- == down
job.state = case state when 'Todo' then 'new' when 'Doing' then 'open' else 'closed' end
