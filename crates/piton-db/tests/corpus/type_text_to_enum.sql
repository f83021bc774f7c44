-- A text with few values becomes an enum.
-- == setup
create table orders (id int primary key, state text, n int);
insert into orders select i, (array['new', 'paid', 'sent'])[1 + i % 3], i from generate_series(1, 30) i;
-- == migrate
create type order_state as enum ('new', 'paid', 'sent');
alter table orders alter state type order_state using state::order_state;
-- == both
insert into orders values ({k}, 'new', {i})
update orders set state = 'paid' where id = {o}
update orders set state = 'sent', n = {i} where id = {o}
update orders set state = null where id = {o}
delete from orders where id = {o}
