-- Names of letters from elsewhere, and one as long as names can be.
-- == setup
create table "Bücher" ("編號" int primary key, "naïve" text, "🦀" text, "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww" text);
insert into "Bücher" select i, 'n' || i, 'c' || i, 'w' from generate_series(1, 30) i;
-- == migrate
alter table "Bücher" rename to "Книги";
alter table "Книги" rename "🦀" to "螃蟹";
alter table "Книги" alter "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww" type varchar(100);
-- == old
insert into "Bücher" values ({k}, {t}, {u}, {t})
update "Bücher" set "🦀" = {t}, "naïve" = {u} where "編號" = {o}
-- == new
insert into "Книги" values ({k}, {t}, {u}, {t})
-- was: insert into "Bücher" values ({k}, {t}, {u}, {t})
update "Книги" set "螃蟹" = {t}, "naïve" = {u} where "編號" = {o}
-- was: update "Bücher" set "🦀" = {t}, "naïve" = {u} where "編號" = {o}
delete from "Книги" where "編號" = {o}
-- was: delete from "Bücher" where "編號" = {o}
