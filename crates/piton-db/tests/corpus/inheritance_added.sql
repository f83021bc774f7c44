-- A table inherits from another, and rows of the child show in the parent.
-- == setup
create table base (id int primary key, name text);
create table special (id int primary key, name text, extra int);
insert into base select i, 'b' || i from generate_series(1, 30) i;
insert into special select i + 1000000, 's' || i, i from generate_series(1, 30) i;
-- == migrate
alter table special inherit base;
-- == old
update base set name = {t} where id = {o}
-- == new
update only base set name = {t} where id = {o}
-- was: update base set name = {t} where id = {o}
update base set name = {t} where id = {o:special} + 1000000
-- was: update special set name = {t} where id = {o:special} + 1000000
delete from base where id = {o:special} + 1000000
-- was: delete from special where id = {o:special} + 1000000
-- == both
insert into base values ({k}, {t})
insert into special values ({k:special} + 1000000, {t}, {i})
update special set extra = {i} where id = {o:special} + 1000000
