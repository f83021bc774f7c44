-- A table is made anew without a lock: what was written meanwhile is lost to the migration, and the rewound copy has it.
-- == setup
create table sample (id int primary key, v text);
insert into sample select i, 'v' || i from generate_series(1, 20000) i;
-- == migrate
create table sample_new (id int primary key, v text, at timestamptz default now());
insert into sample_new (id, v) select id, v from sample;
select pg_sleep(0.2);
drop table sample;
alter table sample_new rename to sample;
-- == both
insert into sample (id, v) values (100000 + {k}, {t})
insert into sample (id, v) values (100000 + {k}, {t}), (100000 + {k2}, {u})
