-- An enum becomes a text, and gets words that the enum does not know.
-- == setup
create type mood as enum ('good', 'bad', 'it''s "so"');
create table diary (id int primary key, mood mood, note text);
insert into diary select i, (enum_range(null::mood))[1 + i % 3], 'n' || i from generate_series(1, 30) i;
-- == migrate
alter table diary alter mood type text;
drop type mood;
-- == both
insert into diary values ({k}, 'good', {t})
update diary set mood = 'it''s "so"' where id = {o}
update diary set note = {t} where id = {o}
delete from diary where id = {o}
-- == new
insert into diary values ({k:NEW}, 'so so', {t})
-- was:
-- == aside
public.diary
