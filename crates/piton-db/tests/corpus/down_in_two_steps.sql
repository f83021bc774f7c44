-- Amounts are multiplied twice in files of their own: between them nobody knows what one means.
-- == setup
create table price (id int primary key, amount int not null, note text);
insert into price select i, i, 'n' || i from generate_series(1, 30) i;
-- == quiet
amounts are a hundred times larger afterwards
-- == migrate
update price set amount = amount * 10;
-- == migrate
update price set amount = amount * 10;
-- == old
insert into price values ({k}, {n})
update price set amount = {n} where id = {o}
-- == down
price.amount = amount / 100
-- == refused
in several transactions
