-- A computed column is computed in another way.
-- == setup
create table tag (id int primary key, name text, slug text generated always as (lower(name)) stored);
insert into tag select i, 'Tag ' || i from generate_series(1, 30) i;
-- == migrate
alter table tag drop column slug;
alter table tag add column slug text generated always as (replace(lower(name), ' ', '-')) stored;
create unique index tag_id_slug on tag (id, slug);
-- == both
insert into tag (id, name) values ({k}, {t})
update tag set name = {t} where id = {o}
update tag set id = {k} where id = {o}
delete from tag where id = {o}
