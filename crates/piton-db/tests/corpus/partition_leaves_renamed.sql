-- Partitions exchange their names, and their table gets another one.
-- == setup
create table act (id int, kind int, v text, primary key (id, kind)) partition by list (kind);
create table act_1 partition of act for values in (1);
create table act_2 partition of act for values in (2);
insert into act select i, 1 + i % 2, 'v' || i from generate_series(1, 30) i;
-- == migrate
alter table act_1 rename to act_x;
alter table act_2 rename to act_1;
alter table act_x rename to act_2;
alter table act rename to deed;
-- == old
insert into act values ({k}, 1, {t})
update act set v = {t} where id = {o}
update act set kind = 3 - kind where id = {o}
-- == new
insert into deed values ({k}, 1, {t})
-- was: insert into act values ({k}, 1, {t})
update deed set v = {t} where id = {o}
-- was: update act set v = {t} where id = {o}
update deed set kind = 3 - kind where id = {o}
-- was: update act set kind = 3 - kind where id = {o}
delete from deed where id = {o}
-- was: delete from act where id = {o}
-- == may be refused
act
