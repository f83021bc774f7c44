-- What notes every row that is written, in the transaction that writes it. SETTINGS stands for the pinned settings.
--
-- What an app's session runs has its own search path: every name is qualified, operators as well. So nobody's operator is run by
-- the functions' owner.
create schema piton_capture;
grant usage on schema piton_capture to public;

-- How a table was laid out; a row that was written under it names it.
create table piton_capture.layout (
    id int8 primary key,
    tab oid not null,
    schema text not null,
    name text not null,
    columns text[] not null,
    types text[] not null,
    -- The columns that tell one row from all others; null for the whole row.
    identity text[]
);

-- The place in the log comes from before the row's own insertion: two changes of one row, or of one transaction, never share it.
create table piton_capture.change (
    xid xid8 not null default pg_catalog.pg_current_xact_id(),
    lsn pg_lsn not null default pg_catalog.pg_current_wal_insert_lsn(),
    -- 0: a table was emptied, whose schema and name stand in old and new. -1: what is in old keeps the rest from being followed.
    layout int8 not null,
    own bool not null,
    old_at tid,
    new_at tid,
    -- The row before; null in an update that leaves what tells it from others.
    old text,
    new text
) with (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100000, autovacuum_analyze_scale_factor = 1);
create index on piton_capture.change (xid);

-- What is visible in the snapshot of a window, and not in that of the one before, is the window's.
create table piton_capture.window (number int8 primary key, snapshot pg_snapshot not null);

-- Behind the bound nothing is noted any more; budget is how far it lies ahead when it is renewed, in bytes of the log.
create table piton_capture.state (bound pg_lsn not null, budget int8 not null);

-- Why nothing more is noted, when that was decided.
create table piton_capture.ended (why text not null);

create function piton_capture.is_followed(c pg_class) returns bool
language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.relkind in ('r', 'p') and c.relpersistence = 'p'
       and not exists (
         select from pg_namespace n where n.oid = c.relnamespace
         and (n.nspname = 'information_schema' or n.nspname ~ '^pg_' or n.nspname ~ '^piton_'))
       -- A dump has none of an extension's rows but those of its configuration.
       and (not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
            or exists (select from pg_extension e where c.oid = any (e.extconfig)))
$$;

create function piton_capture.pinned(r record) returns text
language plpgsql stable SETTINGS as $$ begin return r::pg_catalog.text; end $$;

-- The condition under which the session's settings give values the text that the pinned ones give; null when that cannot be said.
create function piton_capture.condition(tab oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    with recursive held(oid) as (
        select a.atttypid from pg_attribute a where a.attrelid = tab and a.attnum > 0 and not a.attisdropped
        union
        select within.oid from held join pg_type t on t.oid = held.oid
        cross join lateral (
            select t.typbasetype where t.typtype = 'd'
            union all select t.typelem where t.typelem <> 0
            union all select r.rngsubtype from pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
            union all select a.atttypid from pg_attribute a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        ) within(oid)
    ),
    -- What writes the values of the types that are no more than a shell around others.
    written(by) as (
        select distinct case when p.prolang = 12 then p.prosrc else '?' end
        from held join pg_type t on t.oid = held.oid join pg_proc p on p.oid = t.typoutput
        where t.typtype = 'b'
    ),
    known(by, condition) as (
        select by, case
            when by in ('date_out', 'timestamp_out') then 'DateStyle'
            when by in ('timestamptz_out', 'timetz_out') then 'TimeZone'
            when by = 'interval_out' then 'IntervalStyle'
            when by in ('float4out', 'float8out', 'point_out', 'line_out', 'lseg_out', 'box_out', 'path_out', 'poly_out', 'circle_out')
              then 'extra_float_digits'
            when by = 'byteaout' then 'bytea_output'
            when by = 'cash_out' then 'lc_monetary'
            when by ~ '^reg.*out$' or by in ('aclitemout', '?') then '?'
            end
        from written
    ),
    settings(name, test) as (values
        ('DateStyle', 'operator(pg_catalog.~~) ''ISO%'''),
        ('TimeZone', 'operator(pg_catalog.=) any (array[''UTC'', ''Etc/UTC''])'),
        ('IntervalStyle', 'operator(pg_catalog.=) ''postgres'''),
        ('extra_float_digits', 'operator(pg_catalog.=) any (array[''1'', ''2'', ''3''])'),
        ('bytea_output', 'operator(pg_catalog.=) ''hex'''),
        ('lc_monetary', 'operator(pg_catalog.=) any (array[''C'', ''POSIX''])')
    )
    select case when exists (select from known where condition = '?') then null else coalesce(
        (select string_agg(format('pg_catalog.current_setting(%L) %s', name, test), ' and ' order by name)
         from settings
         where name in (select condition from known)
            or name = 'DateStyle' and 'TimeZone' in (select condition from known)), 'true') end
$$;

-- Notes a table's layout, and makes what its trigger runs fit to it. Called again, it changes nothing.
create function piton_capture.lay(tab oid, upto pg_lsn default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    t record;
    id int8;
    own constant text := 'pg_catalog.current_setting(''piton.migrating'', true) operator(pg_catalog.=) ''on'' is true';
    condition text := piton_capture.condition(tab);
    texts text[] := '{}';
    same text;
    part text;
    within text;
    body text;
    name text := 't_' || tab;
begin
    -- One at a time, to the transaction's end: two that write one function would fail.
    perform pg_advisory_xact_lock(1885959279, tab::int8::bit(32)::int4);
    if upto is null then
        -- The bound is not moved while somebody may still write it into a function.
        select s.bound into upto from piton_capture.state s for share;
    end if;
    select n.nspname::text as schema, c.relname::text as name, c.relfilenode,
           array(select a.attname::text from pg_attribute a
                 where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as columns,
           array(select format_type(a.atttypid, null) from pg_attribute a
                 where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as types,
           (select array(select a.attname::text from unnest(i.indkey) k
                         join pg_attribute a on a.attrelid = c.oid and a.attnum = k)
            from pg_index i
            where i.indrelid = c.oid and i.indisvalid and i.indimmediate
              and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end) as identity
    into t
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = tab;
    -- With the file's number: places of rows begin anew with another file.
    id := ('x' || substr(md5(jsonb_build_array(tab, t.relfilenode, t.schema, t.name, t.columns, t.types, t.identity)::text), 1, 15))::bit(60)::int8;
    insert into piton_capture.layout values (id, tab, t.schema, t.name, t.columns, t.types, t.identity) on conflict do nothing;
    foreach part in array array['old', 'new'] loop
        texts := texts || case
            when condition = 'true' then part || '::pg_catalog.text'
            when condition is null then format('piton_capture.pinned(%s)', part)
            else format('case when %s then %s::pg_catalog.text else piton_capture.pinned(%2$s) end', condition, part)
            end;
    end loop;
    select string_agg(format('old.%I::pg_catalog.text operator(pg_catalog.=) new.%1$I::pg_catalog.text', k), ' and ')
    into same from unnest(t.identity) k;
    within := format('where pg_catalog.pg_current_wal_insert_lsn() operator(pg_catalog.<) %L::pg_catalog.pg_lsn', upto);
    body := format('
begin
    if tg_op operator(pg_catalog.=) ''UPDATE'' then
        insert into piton_capture.change (layout, own, old_at, new_at, old, new)
        select %1$s, %2$s, old.ctid, new.ctid, %3$s, %4$s %5$s;
    elsif tg_op operator(pg_catalog.=) ''INSERT'' then
        insert into piton_capture.change (layout, own, new_at, new) select %1$s, %2$s, new.ctid, %4$s %5$s;
    else
        insert into piton_capture.change (layout, own, old_at, old) select %1$s, %2$s, old.ctid, %6$s %5$s;
    end if;
    return null;
end', id, own, case when same is null then texts[1] else format('case when %s then null else %s end', same, texts[1]) end,
        texts[2], within, texts[1]);
    if not exists (select from pg_proc p where p.pronamespace = 'piton_capture'::regnamespace and p.proname = name and p.prosrc = body) then
        execute format('create or replace function piton_capture.%I() returns trigger language plpgsql security definer as %L', name, body);
    end if;
end $$;

create function piton_capture.empties() returns trigger
language plpgsql security definer as $$
begin
    insert into piton_capture.change (layout, own, old, new)
    select 0, pg_catalog.current_setting('piton.migrating', true) operator(pg_catalog.=) 'on' is true, tg_table_schema, tg_table_name
    from piton_capture.state s where pg_catalog.pg_current_wal_insert_lsn() operator(pg_catalog.<) s.bound;
    return null;
end $$;

-- Has a table's writes noted, as whoever may alter it.
create function piton_capture.attach(tab oid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    c pg_class;
    wanted record;
    enabled "char";
begin
    select * into c from pg_class where oid = tab;
    if not found or not piton_capture.is_followed(c) then
        return;
    end if;
    if c.relkind = 'r' then
        perform piton_capture.lay(tab);
    end if;
    for wanted in
        select * from (values
            ('r', '!piton_capture_row', 'after insert or update or delete', 'row', 't_' || tab),
            ('p', '!piton_capture_empty', 'before truncate', 'statement', 'empties')
        ) w(kind, name, fires, each, does)
        -- What is divided into partitions has no rows of its own.
        where c.relkind = 'r' or w.kind = 'p'
    loop
        select t.tgenabled into enabled from pg_trigger t where t.tgrelid = tab and t.tgname = wanted.name;
        if not found then
            execute format('create trigger %I %s on %s for each %s execute function piton_capture.%I()',
                wanted.name, wanted.fires, tab::regclass, wanted.each, wanted.does);
        end if;
        if enabled is distinct from 'A' then
            execute format('alter table %s enable always trigger %I', tab::regclass, wanted.name);
        end if;
    end loop;
end $$;

create function piton_capture.cannot(what text) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    insert into piton_capture.change (layout, own, old) values (-1, false, what)
$$;

-- Lists the tables whose writes are not noted as they should be.
create function piton_capture.unattached() returns setof oid
language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.oid from pg_class c
    where c.relkind in ('r', 'p') and c.relpersistence = 'p' and c.oid >= 16384 and piton_capture.is_followed(c)
      and (select count(*) from pg_trigger t
           where t.tgrelid = c.oid and t.tgenabled = 'A'
             and t.tgname in ('!piton_capture_row', '!piton_capture_empty')) < case c.relkind when 'r' then 2 else 1 end
$$;

-- Follows the structure. What cannot be followed is noted, and fails nobody's statement.
create function piton_capture.moves() returns event_trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    tab oid;
    moved oid[];
begin
    if tg_event = 'sql_drop' then
        moved := array(
            select d.objid from pg_event_trigger_dropped_objects() d where d.object_type = 'table column'
            union
            select to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))
            from pg_event_trigger_dropped_objects() d
            where d.object_type = 'trigger' and d.address_names[3] ~ '^!piton_capture_');
    else
        moved := array(
            with recursive part(oid) as (
                select d.objid from pg_event_trigger_ddl_commands() d where d.classid = 'pg_class'::regclass
                union
                select i.inhrelid from part join pg_inherits i on i.inhparent = part.oid)
            select p.oid from part p join pg_class c on c.oid = p.oid where c.relkind in ('r', 'p'));
        if tg_tag in ('ALTER TYPE', 'ALTER DOMAIN', 'ALTER SCHEMA', 'ALTER EXTENSION', 'DROP INDEX') then
            moved := moved || array(
                select c.oid from pg_class c where c.relkind = 'r' and piton_capture.is_followed(c)
                  and (tg_tag not in ('ALTER TYPE', 'ALTER DOMAIN') or exists (
                    select from pg_attribute a join pg_type t on t.oid = a.atttypid
                    where a.attrelid = c.oid and t.typnamespace <> 'pg_catalog'::regnamespace)));
        end if;
    end if;
    foreach tab in array moved loop
        begin
            perform piton_capture.attach(tab);
        exception when others then
            perform piton_capture.cannot(format('the writes to %s cannot be noted: %s', tab::regclass, sqlerrm));
        end;
    end loop;
end $$;

create event trigger piton_capture_moves on ddl_command_end execute function piton_capture.moves();
create event trigger piton_capture_drops on sql_drop execute function piton_capture.moves();
-- Also in a session that sets session_replication_role.
alter event trigger piton_capture_moves enable always;
alter event trigger piton_capture_drops enable always;
