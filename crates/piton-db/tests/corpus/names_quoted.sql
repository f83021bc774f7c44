-- Names with spaces, quotes, dots, capitals, and an empty-looking one; some of them change.
-- == setup
create schema "My Schema";
create table "My Schema"."a ""quoted"" table" ("Id" int primary key, "the 'value'" text, "x.y" text, " " int, "[z]:" text);
insert into "My Schema"."a ""quoted"" table" select i, 'v' || i, 'x', i, 'z' from generate_series(1, 30) i;
-- == migrate
alter table "My Schema"."a ""quoted"" table" rename to "A ""Quoted"" Table";
alter table "My Schema"."A ""Quoted"" Table" rename "x.y" to "X.Y";
alter table "My Schema"."A ""Quoted"" Table" rename "[z]:" to "z[text]:'";
-- == old
insert into "My Schema"."a ""quoted"" table" values ({k}, {t}, {u}, {i}, {t})
update "My Schema"."a ""quoted"" table" set "x.y" = {t} where "Id" = {o}
update "My Schema"."a ""quoted"" table" set "[z]:" = {t}, " " = {i} where "Id" = {o}
-- == new
insert into "My Schema"."A ""Quoted"" Table" values ({k}, {t}, {u}, {i}, {t})
-- was: insert into "My Schema"."a ""quoted"" table" values ({k}, {t}, {u}, {i}, {t})
update "My Schema"."A ""Quoted"" Table" set "X.Y" = {t} where "Id" = {o}
-- was: update "My Schema"."a ""quoted"" table" set "x.y" = {t} where "Id" = {o}
update "My Schema"."A ""Quoted"" Table" set "z[text]:'" = {t}, " " = {i} where "Id" = {o}
-- was: update "My Schema"."a ""quoted"" table" set "[z]:" = {t}, " " = {i} where "Id" = {o}
update "My Schema"."A ""Quoted"" Table" set "the 'value'" = null, "Id" = {k} where "Id" = {o}
-- was: update "My Schema"."a ""quoted"" table" set "the 'value'" = null, "Id" = {k} where "Id" = {o}
delete from "My Schema"."A ""Quoted"" Table" where "Id" = {o}
-- was: delete from "My Schema"."a ""quoted"" table" where "Id" = {o}
