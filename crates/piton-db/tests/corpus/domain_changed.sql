-- What a domain allows is changed, and its name.
-- == setup
create domain grade as int constraint up_to_six check (value between 1 and 6);
create table exam (id int primary key, grade grade, note text);
insert into exam select i, 1 + i % 6, 'n' || i from generate_series(1, 30) i;
-- == migrate
alter domain grade drop constraint up_to_six;
alter domain grade rename to points;
alter domain points add constraint up_to_fifteen check (value between 0 and 15);
-- == both
insert into exam values ({k}, 1 + {i} % 6, {t})
update exam set grade = 1 + {j} % 6 where id = {o}
update exam set grade = null, note = {t} where id = {o}
delete from exam where id = {o}
-- == new
insert into exam values ({k:MORE}, 7 + {i} % 8, {t})
-- was:
-- == aside
public.exam
