-- Tables and columns that are called like words of the language, and of the log.
-- == setup
create table "select" ("order" int primary key, "group" text, "user" text, old text, new text, key text, "table" text, "null" text);
insert into "select" select i, 'g' || i, 'u', 'o', 'n', 'k', 't', 'x' from generate_series(1, 30) i;
-- == migrate
alter table "select" rename to "from";
alter table "from" rename "user" to "current_user";
alter table "from" rename "null" to "true";
alter table "from" add "check" int default 1;
-- == old
insert into "select" values ({k}, {t}, {u}, {t}, {u}, {t}, {u}, {t})
update "select" set "user" = {t}, "null" = {u} where "order" = {o}
-- == new
insert into "from" values ({k}, {t}, {u}, {t}, {u}, {t}, {u}, {t})
-- was: insert into "select" values ({k}, {t}, {u}, {t}, {u}, {t}, {u}, {t})
update "from" set "current_user" = {t}, "true" = {u} where "order" = {o}
-- was: update "select" set "user" = {t}, "null" = {u} where "order" = {o}
update "from" set old = {t}, new = {u}, key = null, "table" = {t} where "order" = {o}
-- was: update "select" set old = {t}, new = {u}, key = null, "table" = {t} where "order" = {o}
delete from "from" where "order" = {o}
-- was: delete from "select" where "order" = {o}
