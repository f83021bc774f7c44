-- Columns are added: nullable, with a constant default, with a volatile one.
-- == setup
create table note (id bigint primary key, body text not null);
insert into note select i, 'note ' || i from generate_series(1, 30) i;
-- == migrate
alter table note add tag text;
alter table note add weight int not null default 7;
alter table note add seen timestamptz not null default clock_timestamp();
-- == old
insert into note (id, body) values ({k}, {t})
update note set body = {t} where id = {o}
delete from note where id = {o}
-- == new
insert into note (id, body, tag, weight) values ({k}, {t}, {u}, {i})
-- was: insert into note (id, body) values ({k}, {t})
update note set tag = {u}, body = {t} where id = {o}
-- was: update note set body = {t} where id = {o}
update note set id = {k}, weight = {i} where id = {o}
-- was: update note set id = {k} where id = {o}
delete from note where id = {o}
-- was: delete from note where id = {o}
insert into note (id, body) values ({o}, {t}) on conflict (id) do update set body = excluded.body, weight = {i}
-- was: insert into note (id, body) values ({o}, {t}) on conflict (id) do update set body = excluded.body
