-- A new partition takes its rows out of the default one.
-- == setup
create table page (id int, lang text, v text, primary key (id, lang)) partition by list (lang);
create table page_en partition of page for values in ('en');
create table page_rest partition of page default;
insert into page select i, (array['en', 'de', 'fr'])[1 + i % 3], 'v' || i from generate_series(1, 30) i;
-- == migrate
lock table page;
create table page_de (like page including all);
with moved as (delete from page_rest where lang = 'de' returning *) insert into page_de select * from moved;
alter table page attach partition page_de for values in ('de');
-- == both
insert into page values ({k}, 'de', {t})
insert into page values ({k}, 'it', {t})
update page set v = {t} where id = {o}
update page set lang = 'de' where id = {o}
update page set lang = 'xx' where id = {o}
delete from page where id = {o}
-- == may be refused
page
