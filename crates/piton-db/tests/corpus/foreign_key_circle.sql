-- Two tables refer to each other, by keys that are looked at at the end; one of these goes.
-- == setup
create table team (id int primary key, captain int, v text);
create table player (id int primary key, team int not null, v text);
insert into team select i, i, 't' || i from generate_series(1, 30) i;
insert into player select i, i, 'p' || i from generate_series(1, 30) i;
alter table team add constraint captain foreign key (captain) references player deferrable initially deferred;
alter table player add constraint team foreign key (team) references team deferrable initially deferred;
-- == migrate
alter table team drop constraint captain;
alter table team rename captain to captain_id;
-- == old
insert into team values ({k}, {k}, {t}); insert into player values ({k}, {k}, {u})
-- == new
insert into team values ({k}, {k}, {t}); insert into player values ({k}, {k}, {u})
-- was: insert into team values ({k}, {k}, {t}); insert into player values ({k}, {k}, {u})
-- == both
update team set v = {t} where id = {o}
update player set v = {t} where id = {o}
delete from team where id = {o}; delete from player where team = {o}
