-- What notes the locks of every statement that changes the structure, in the session that runs it. A lock is held to the
-- transaction's end, so that at the statement's end none is missing, however short it will be; a sample would miss it.
create schema piton_rehearsal;
create table piton_rehearsal.locks (
    xact timestamptz not null default pg_catalog.transaction_timestamp(),
    relation oid not null,
    mode text not null,
    at timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (xact, relation, mode)
);
create table piton_rehearsal.rewrites (
    relation oid not null,
    at timestamptz not null default pg_catalog.clock_timestamp()
);
-- Whatever role the migration takes on, it may note.
create function piton_rehearsal.note_locks() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into piton_rehearsal.locks (relation, mode)
    select l.relation, l.mode from pg_locks l
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.granted
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation >= 16384
    on conflict do nothing;
end $$;
create function piton_rehearsal.note_rewrite() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into piton_rehearsal.rewrites (relation) values (pg_event_trigger_table_rewrite_oid());
end $$;
create event trigger piton_rehearsal_locks on ddl_command_end execute function piton_rehearsal.note_locks();
create event trigger piton_rehearsal_rewrites on table_rewrite execute function piton_rehearsal.note_rewrite();
-- A migration that sets session_replication_role is noted as well.
alter event trigger piton_rehearsal_locks enable always;
alter event trigger piton_rehearsal_rewrites enable always;
