//! A database with an object of every kind, and a statement for each thing that can be told of one.

/// Adds to [`crate::HARD`] what a server may have besides.
pub(crate) const EVERYTHING: &str = r#"
    create role listed; create role listed_too; create role listed_super superuser;
    set allow_in_place_tablespaces = on;
    create tablespace listed_space location '';
    create table team (id int primary key, name text, note text, n int, region int[] default '{}', at tstzrange);
    create table player (id int primary key, team int constraint of_team references team, name text, rank int, note text);
    create index player_rank on player (rank);
    create index player_name on player (lower(name));
    create view teams as select id, name from team;
    create view pairs as select 1 as a;
    create materialized view ranks as select rank from player;
    create rule ins as on insert to teams do instead nothing;
    create statistics stat on team, rank from player;
    create sequence seq; create sequence bounded;
    create materialized view ones as select 1 as one;
    create table "Büro".numbered (id int not null); create rule guard as on delete to "Büro".numbered do instead nothing;
    create type pair as (a int, b int);
    create type point3 as (x int, y int);
    create table points of point3;
    create table plain_points (x int, y int);
    grant create on schema public to listed_super; set role listed_super; create type span as range (subtype = int); reset role;
    create domain short as text;
    create table log (id int not null, at date) partition by range (at);
    create table log_1 partition of log for values from ('2026-01-01') to ('2026-02-01');
    create index log_at on only log (at);
    create index log_1_at on log_1 (at);
    create unique index log_1_id on log_1 (id);
    create table base (a int); create table heir (a int, b int);
    create table root (a int); create table leaf () inherits (root);
    create function f(a int) returns int language sql immutable as 'select a';
    create procedure p() language sql as 'select 1';
    create aggregate agg(int) (sfunc = int4pl, stype = int);
    create function check_ddl() returns event_trigger language plpgsql as 'begin end';
    create event trigger watch on ddl_command_end when tag in ('CREATE TABLE') execute function check_ddl();
    create function int_eq(int, int) returns bool language internal immutable strict as 'int4eq';
    create function int_ne(int, int) returns bool language internal immutable strict as 'int4ne';
    create operator === (leftarg = int, rightarg = int, function = int_eq, commutator = ===);
    create operator !== (leftarg = int, rightarg = int, function = int_ne, commutator = !==);
    create operator family fam using btree;
    create operator class int_down for type int using btree as operator 1 >, operator 2 >=, operator 3 =, operator 4 <=, operator 5 <,
        function 1 btint4cmp(int, int);
    create function mood_int(mood) returns int language sql immutable as 'select 1';
    create type base_type; create function base_in(cstring) returns base_type language internal immutable strict as 'int4in';
    create function base_out(base_type) returns cstring language internal immutable strict as 'int4out';
    create conversion conv for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
    create function handler() returns language_handler language c as '$libdir/plpgsql', 'plpgsql_call_handler';
    create function inliner(internal) returns void language c strict as '$libdir/plpgsql', 'plpgsql_inline_handler';
    create language speech handler handler;
    create collation swedish (locale = 'C.UTF-8');
    create text search configuration words (copy = simple);
    create text search dictionary stems (template = simple);
    create foreign data wrapper wrap options (debug 'off');
    create server far type 'x' foreign data wrapper wrap options (host 'a');
    create user mapping for listed server far options (user 'u', password 'secret');
    create foreign table far_rows (a int) server far options (path 'x');
    create publication pub for table team;
    create publication pub_log for table log;
    create subscription sub connection 'host=nowhere password=secret' publication a, b with (connect = false, slot_name = none);
    create policy theirs on team to listed using (true);
"#;

/// Statements, each with the objects that it alone touches, in order; owners and privileges that follow are left out.
pub(crate) const CHANGES: &[(&str, &[&str])] = &[
    ("alter table \"User\" alter n set not null", &["column public.\"User\".n"]),
    ("alter table \"User\" alter mood set default 'bad'", &["column public.\"User\".mood"]),
    ("alter table secret alter v type varchar(90) collate \"C\"", &["column public.secret.v"]),
    ("alter table \"User\" alter twice drop expression", &["column public.\"User\".twice"]),
    ("alter table \"User\" validate constraint later", &["constraint public.\"User\".later"]),
    ("alter table \"User\" drop constraint later", &["constraint public.\"User\".later"]),
    ("alter table \"User\" disable trigger touch", &["trigger public.\"User\".touch"]),
    ("alter table \"User\" enable row level security", &["table public.\"User\""]),
    ("alter table \"User\" set (fillfactor = 70)", &["table public.\"User\""]),
    ("drop index user_email_lower", &["index public.user_email_lower"]),
    ("alter type mood add value 'not so good' before 'bad'", &["type public.mood"]),
    ("alter domain positive set default 3", &["domain public.positive"]),
    (
        "create or replace function touch() returns trigger language plpgsql as 'begin return null; end'",
        &["function public.touch()"],
    ),
    (
        "create or replace view good_users as select id, email from \"User\" where mood = 'bad'",
        &["view public.good_users"],
    ),
    ("alter sequence \"User_id_seq\" increment 2", &["sequence public.\"User_id_seq\""]),
    ("alter policy own on secret using (true)", &["policy public.secret.own"]),
    ("comment on column \"User\".email is 'private'", &["comment on table column public.\"User\".email"]),
    ("alter table part detach partition part_2", &["table public.part_2"]),
    ("create aggregate total(int) (sfunc = int4pl, stype = int)", &["aggregate public.total(integer)"]),
    ("create statistics pair on email, n from \"User\"", &["statistics public.pair"]),
    ("create publication p for table nothing", &["publication p"]),
    ("create rule r as on delete to nothing do instead nothing", &["rule public.nothing.r"]),
    ("create schema fresh", &["schema fresh"]),
    ("comment on schema public is 'ours'", &["comment on schema public"]),
    (
        "create extension tablefunc schema \"Büro\"",
        &["comment on extension tablefunc", "extension tablefunc"],
    ),
    ("alter table player set unlogged", &["table public.player"]),
    ("alter table team force row level security", &["table public.team"]),
    ("alter table team enable row level security", &["table public.team"]),
    ("alter table player replica identity full", &["table public.player"]),
    (
        "alter table log_1 replica identity using index log_1_id",
        &["index public.log_1_id", "table public.log_1"],
    ),
    ("alter table plain_points of point3", &["table public.plain_points"]),
    ("alter table base set tablespace listed_space", &["table public.base"]),
    ("alter table team set (toast.autovacuum_enabled = off)", &["table public.team"]),
    ("alter table nothing set (autovacuum_enabled = off)", &["table public.nothing"]),
    ("create access method heap2 type table handler heap_tableam_handler", &["access method heap2"]),
    ("create table shadow (a int) using heap2", &["column public.shadow.a", "table public.shadow"]),
    ("alter table heir inherit base", &["column public.heir.a", "column public.heir.b", "table public.heir"]),
    ("alter view pairs set (security_barrier = on)", &["view public.pairs"]),
    ("alter view teams alter name set default 'x'", &["column public.teams.name"]),
    (
        "create materialized view unread as select 1 as one with no data",
        &["column public.unread.one", "materialized view public.unread"],
    ),
    ("alter foreign table far_rows options (set path 'y')", &["foreign table public.far_rows"]),
    ("alter foreign table far_rows alter a options (add \"column\" 'b')", &["column public.far_rows.a"]),
    ("alter table team alter name set statistics 500", &["column public.team.name"]),
    ("alter table team alter name set storage external", &["column public.team.name"]),
    ("alter table team alter name set compression pglz", &["column public.team.name"]),
    ("alter table team alter n set (n_distinct = 7)", &["column public.team.n"]),
    ("alter table player alter name set not null", &["column public.player.name"]),
    ("alter table player alter rank set default 3", &["column public.player.rank"]),
    ("alter table player alter note type varchar(9) collate \"C\"", &["column public.player.note"]),
    (
        "alter table \"Büro\".numbered alter id add generated by default as identity",
        &["column \"Büro\".numbered.id", "sequence \"Büro\".numbered_id_seq"],
    ),
    (
        "alter table player add column slug text generated always as (name) stored",
        &["column public.player.slug"],
    ),
    (
        "alter table player add constraint ranked check (rank > 0) not valid",
        &["constraint public.player.ranked"],
    ),
    (
        "alter table player add constraint sole unique (rank) deferrable",
        &["constraint public.player.sole", "index public.sole"],
    ),
    ("alter domain short add constraint brief check (length(value) < 9)", &["constraint public.short.brief"]),
    ("alter domain short set not null", &["domain public.short"]),
    (
        "alter table team add constraint apart exclude using gist (at with &&)",
        &["constraint public.team.apart", "index public.apart"],
    ),
    (
        "alter table player disable trigger all",
        &[
            "disabled triggers of constraint public.player.of_team on public.player",
            "disabled triggers of constraint public.player.sole on public.player",
        ],
    ),
    ("cluster player using player_rank", &["index public.player_rank"]),
    ("alter index player_rank set tablespace listed_space", &["index public.player_rank"]),
    ("alter index player_name alter column 1 set statistics 77", &["index public.player_name"]),
    ("alter index player_rank set (fillfactor = 60)", &["index public.player_rank"]),
    ("alter index log_at attach partition log_1_at", &["index public.log_1_at", "index public.log_at"]),
    ("create unique index one_null on team (n) nulls not distinct", &["index public.one_null"]),
    ("alter statistics stat set statistics 300", &["statistics public.stat"]),
    ("create statistics spread on (n + 1), name from team", &["statistics public.spread"]),
    ("alter table \"Büro\".numbered disable rule guard", &["rule \"Büro\".numbered.guard"]),
    ("create rule upd as on update to teams do instead nothing", &["rule public.teams.upd"]),
    (
        "create trigger touched after update on player referencing old table as old for each statement execute function touch()",
        &["trigger public.player.touched"],
    ),
    ("alter table \"User\" enable always trigger touch", &["trigger public.\"User\".touch"]),
    ("alter policy theirs on team to listed_too", &["policy public.team.theirs"]),
    (
        "create policy strict on team as restrictive for delete to listed using (false)",
        &["policy public.team.strict"],
    ),
    ("alter sequence seq set unlogged", &["sequence public.seq"]),
    ("alter sequence seq cache 9 cycle", &["sequence public.seq"]),
    ("alter sequence seq owned by team.id", &["sequence public.seq"]),
    ("alter type mood add value 'so so'", &["type public.mood"]),
    ("alter type pair add attribute z int", &["column public.pair.z"]),
    (
        "create type span_too as range (subtype = text, collation = \"C\", multirange_type_name = spans)",
        &["type public.span_too"],
    ),
    ("create type shell", &["type public.shell"]),
    (
        "create type base_type (input = base_in, output = base_out, like = int4, category = 'X')",
        &["type public.base_type"],
    ),
    (
        "create function g(x int, out y int) language sql set work_mem = '1MB' as 'select x'",
        &["function public.g(x integer, OUT y integer)"],
    ),
    ("alter function f(int) cost 7 parallel safe", &["function public.f(a integer)"]),
    ("alter procedure p() security definer", &["function public.p()"]),
    (
        "create or replace aggregate agg(int) (sfunc = int4pl, stype = int, initcond = '4', parallel = safe)",
        &["aggregate public.agg(integer)"],
    ),
    (
        "create operator <<< (leftarg = int, rightarg = int, function = int_eq, hashes, merges)",
        &["operator public.<<<(integer, integer)"],
    ),
    ("alter operator ===(int, int) set (restrict = eqsel)", &["operator public.===(integer, integer)"]),
    (
        "create operator class int_hash for type int using hash as operator 1 =, function 1 hashint4(int)",
        &["operator class public.int_hash using hash", "operator family public.int_hash using hash"],
    ),
    ("create operator family bare using hash", &["operator family public.bare using hash"]),
    (
        "alter operator family fam using btree add operator 1 <(int, int), function 1 btint4cmp(int, int)",
        &["operator family public.fam using btree"],
    ),
    (
        "create cast (mood as int) with function mood_int(mood) as assignment",
        &["cast public.mood as integer"],
    ),
    (
        "create transform for int language sql (from sql with function prsd_lextype(internal), to sql with function int4recv(internal))",
        &["transform for integer language sql"],
    ),
    (
        "create default conversion conv_too for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8",
        &["conversion public.conv_too"],
    ),
    ("create trusted language chatter handler handler inline inliner", &["language chatter"]),
    ("alter event trigger watch enable replica", &["event trigger watch"]),
    ("create collation german (provider = icu, locale = 'de-u-co-phonebk')", &["collation public.german"]),
    (
        "drop collation german; create collation german (provider = icu, locale = 'sv')",
        &["collation public.german"],
    ),
    (
        "alter text search configuration words alter mapping for word with stems, simple",
        &["text search configuration public.words"],
    ),
    ("alter text search dictionary stems (accept = off)", &["text search dictionary public.stems"]),
    (
        "create text search parser reader (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype)",
        &["text search parser public.reader"],
    ),
    (
        "create text search template shape (init = dsimple_init, lexize = dsimple_lexize)",
        &["text search template public.shape"],
    ),
    ("alter foreign data wrapper wrap options (set debug 'on')", &["foreign-data wrapper wrap"]),
    ("alter server far version '2' options (set host 'b')", &["foreign server far"]),
    (
        "alter user mapping for listed server far options (set password 'other')",
        &["user mapping for listed at far"],
    ),
    ("create user mapping for public server far", &["user mapping for public at far"]),
    ("alter publication pub set table team (id, name) where (id > 5)", &["publication pub"]),
    ("alter publication pub_log set (publish_via_partition_root = on)", &["publication pub_log"]),
    ("alter publication pub set (publish = 'insert')", &["publication pub"]),
    ("create publication pub_schema for tables in schema \"Büro\"", &["publication pub_schema"]),
    ("create publication pub_all for all tables", &["publication pub_all"]),
    ("alter subscription sub connection 'host=nowhere password=other'", &["connection of subscription sub"]),
    ("alter subscription sub set publication a with (refresh = false)", &["subscription sub"]),
    (
        "alter subscription sub set (synchronous_commit = 'local', binary = on, streaming = on)",
        &["subscription sub"],
    ),
    ("alter table leaf alter a set statistics 3", &["column public.leaf.a"]),
    (
        "create constraint trigger late after insert on player deferrable initially deferred for each row execute function touch()",
        &["constraint public.player.late", "trigger public.player.late"],
    ),
    ("alter table player alter constraint of_team deferrable", &["constraint public.player.of_team"]),
    (
        "alter table team drop column region, add column region int[]",
        &["column public.team.at", "column public.team.region"],
    ),
    ("comment on trigger touch on \"User\" is 'x'", &["comment on trigger touch on public.\"User\""]),
    ("comment on language speech is 'x'", &["comment on language speech"]),
    ("comment on subscription sub is 'x'", &["comment on subscription sub"]),
    ("comment on type span is 'x'", &["comment on type public.span"]),
    ("alter schema \"Büro\" owner to listed", &["owner of schema \"Büro\""]),
    ("alter schema public owner to listed", &["owner of schema public"]),
    ("alter table team owner to listed", &["owner of public.seq", "owner of public.team"]),
    ("alter view pairs owner to listed", &["owner of public.pairs"]),
    ("alter materialized view ones owner to listed", &["owner of public.ones"]),
    ("alter foreign table far_rows owner to listed", &["owner of public.far_rows"]),
    ("alter sequence bounded owner to listed", &["owner of public.bounded"]),
    ("alter type span owner to listed", &["owner of type public.span"]),
    ("alter domain short owner to listed", &["owner of domain public.short"]),
    ("alter type point3 owner to listed", &["owner of composite type public.point3"]),
    ("alter function f(int) owner to listed", &["owner of function public.f(a integer)"]),
    ("alter aggregate agg(int) owner to listed", &["owner of function public.agg(integer)"]),
    ("alter operator ===(int, int) owner to listed", &["owner of operator public.===(integer, integer)"]),
    (
        "alter operator family fam using btree owner to listed",
        &["owner of operator family public.fam using btree"],
    ),
    (
        "alter operator class int_down using btree owner to listed",
        &["owner of operator class public.int_down using btree"],
    ),
    ("alter collation swedish owner to listed", &["owner of collation public.swedish"]),
    ("alter conversion conv owner to listed", &["owner of conversion public.conv"]),
    ("alter statistics stat owner to listed", &["owner of statistics public.stat"]),
    (
        "alter text search configuration words owner to listed",
        &["owner of text search configuration public.words"],
    ),
    ("alter text search dictionary stems owner to listed", &["owner of text search dictionary public.stems"]),
    ("alter language speech owner to listed_too", &["owner of language speech"]),
    ("alter server far owner to listed", &["owner of foreign server far"]),
    ("alter publication pub_log owner to listed", &["owner of publication pub_log"]),
    ("alter subscription sub owner to listed_super", &["owner of subscription sub"]),
    ("alter event trigger watch owner to listed_super", &["owner of event trigger watch"]),
    ("alter foreign data wrapper wrap owner to listed_super", &["owner of foreign-data wrapper wrap"]),
    ("grant create on schema public to listed_too", &["grants on schema public"]),
    ("grant select on team to listed_too with grant option", &["grants on public.team"]),
    ("grant insert (name), update (name) on team to listed_too", &["grants on column public.team.name"]),
    ("grant usage on sequence bounded to listed_too", &["grants on public.bounded"]),
    ("revoke execute on function f(int) from public", &["grants on function public.f(a integer)"]),
    (
        "grant execute on function f(int) to listed_too with grant option",
        &["grants on function public.f(a integer)"],
    ),
    ("grant usage on type span to listed_too", &["grants on type public.span"]),
    ("revoke usage on domain short from public", &["grants on domain public.short"]),
    ("grant usage on language sql to listed_too", &["grants on language sql"]),
    ("grant usage on foreign data wrapper wrap to listed_too", &["grants on foreign-data wrapper wrap"]),
    ("grant usage on foreign server far to listed_too", &["grants on foreign server far"]),
    (
        "revoke select (subname) on pg_catalog.pg_subscription from public",
        &["grants on table column pg_catalog.pg_subscription.subname"],
    ),
    (
        "revoke execute on function pg_catalog.pg_sleep(double precision) from public",
        &["grants on function pg_catalog.pg_sleep(double precision)"],
    ),
    (
        "revoke execute on function \"Büro\".normal_rand(integer, double precision, double precision) from public",
        &["grants on function \"Büro\".normal_rand(integer,double precision,double precision)"],
    ),
    ("grant select on pg_catalog.pg_authid to listed", &["grants on table pg_catalog.pg_authid"]),
    (
        "alter default privileges grant select on tables to listed",
        &["default privileges of postgres on tables"],
    ),
    (
        "alter default privileges for role listed in schema public grant execute on functions to listed_too",
        &["default privileges of listed in schema public on functions"],
    ),
    (
        "alter default privileges for role listed revoke usage on types from public",
        &["default privileges of listed on types"],
    ),
    ("set role listed_too; grant select on team to listed_super; reset role", &["grants on public.team"]),
];
