//! Where a replay stands, kept in the golden copy itself: in the same transaction as the rows.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::layout::{Layout, SCHEMA};
use super::map::Way;
use super::net::{Key, parts};
use super::route::{Later, Routes};
use crate::DbError;
use crate::capture::{Lsn, Name, Snapshot};
use crate::error::Doing;
use crate::migrate::RecordTables;

/// What is kept about a row beside the golden copy's own tables.
const TABLES: &str = "
    create schema piton_replay;
    create table piton_replay.mark (reached text not null, seen text not null, altered text not null, later text not null, written int8 not null, applied bool not null, sees text not null, way text not null, record text not null);
    create table piton_replay.layout (stage int primary key, layout text not null);
    create table piton_replay.aside (place text not null, key text not null, why text not null, of_migration bool not null);
    create index on piton_replay.aside using hash (key);
    create table piton_replay.own (place text not null, key text not null, filled text not null);
    create index on piton_replay.own using hash (key);
    create table piton_replay.touched (number int8 generated always as identity, tab oid not null, state int2 not null, keys bytea[] not null);
    -- A list is written for each block: whoever waits for it waits longer for its compression.
    alter table piton_replay.touched alter keys set storage external;
    create table piton_replay.left_by (number int8 generated always as identity, tab oid not null, is_there bool not null, mixed bool not null, columns text[] not null, keys bytea[] not null, marks int8[] not null);
    create table piton_replay.switched_off (off text not null, put_back text not null);
    -- A publication of all tables, which comes with the backup, has no row removed from a table that cannot tell which.
    alter table piton_replay.mark replica identity full;
    alter table piton_replay.layout replica identity full;
    alter table piton_replay.aside replica identity full;
    alter table piton_replay.own replica identity full;
    alter table piton_replay.touched replica identity full;
    alter table piton_replay.left_by replica identity full;
    alter table piton_replay.switched_off replica identity full;";

/// The number of the golden copy's own layout, among those of the live database.
const GOLDEN: i32 = -1;

/// What is known of a replay when it is taken up.
#[derive(Debug)]
pub(super) struct Mark {
    /// All that was committed before this place is in the golden copy.
    pub(super) reached: Lsn,
    /// The transactions that changed a layout and were passed.
    pub(super) seen: BTreeSet<u32>,
    /// The places with computed columns in which the migration was seen to write.
    pub(super) altered: BTreeSet<usize>,
    /// Tables that were made after the migration.
    pub(super) later: BTreeMap<Name, Later>,
    /// Whether all of the migration is applied.
    pub(super) applied: bool,
    /// How many rows others than the migration have written.
    pub(super) written: i64,
    /// What the dump holds.
    pub(super) sees: Snapshot,
    pub(super) way: Way,
    pub(super) record: RecordTables,
}

fn text<T: serde::Serialize>(value: &T) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Replay(error.to_string()))
}

fn value<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::Replay(format!("its notes cannot be read: {error}")))
}

/// Makes the tables, and lists what would fire even when rows are replayed, or refuse a row's number.
pub(super) async fn make(
    client: &Client,
    sees: &Snapshot,
    record: &RecordTables,
    way: &Way,
) -> Result<(), DbError> {
    let what = || "prepare the golden copy for a replay".to_owned();
    client.batch_execute(TABLES).await.doing(what)?;
    client
        .execute(
            "insert into piton_replay.mark values ($1, '[]', '[]', '[]', 0, false, $2, $3, $4)",
            &[&Lsn::default().to_string(), &sees.to_string(), &text(way)?, &text(record)?],
        )
        .await
        .doing(what)?;
    note(client, GOLDEN, &Layout::read(client).await?).await?;
    let always = format!("insert into piton_replay.switched_off {ALWAYS}");
    client.execute(&always, &[&SCHEMA]).await.map(drop).doing(what)
}

/// Switches off what would fire even in a session that replays, or refuse a row's number; done already, it does no harm.
pub(super) async fn switch_off(client: &Client) -> Result<(), DbError> {
    switch(client, "select off from piton_replay.switched_off").await
}

/// Puts it back; done already, it does no harm.
pub(super) async fn switch_on(client: &Client) -> Result<(), DbError> {
    switch(client, "select put_back from piton_replay.switched_off").await
}

async fn switch(client: &Client, statements: &str) -> Result<(), DbError> {
    let what = || "switch triggers of the golden copy".to_owned();
    for row in client.query(statements, &[]).await.doing(what)? {
        client.batch_execute(row.get(0)).await.doing(what)?;
    }
    Ok(())
}

/// Triggers and rules that fire in a session which replays, and columns that nobody but the server numbers: how each is switched off and
/// back.
const ALWAYS: &str = "
    select pg_catalog.format('alter table %I.%I disable %s %I', n.nspname, c.relname, t.kind, t.name),
           pg_catalog.format('alter table %I.%I enable %s %s %I', n.nspname, c.relname,
                             case t.enabled when 'A' then 'always' else 'replica' end, t.kind, t.name)
    from (select tgrelid as relation, 'trigger' as kind, tgname as name, tgenabled as enabled
          from pg_catalog.pg_trigger where not tgisinternal and tgparentid = 0
          union all
          select ev_class, 'rule', rulename, ev_enabled from pg_catalog.pg_rewrite) t
    join pg_catalog.pg_class c on c.oid = t.relation
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where t.enabled in ('A', 'R') and n.nspname <> $1 and n.nspname !~ '^pg_'
    union all
    select pg_catalog.format('alter table %I.%I alter column %I set generated by default', n.nspname, c.relname, a.attname),
           pg_catalog.format('alter table %I.%I alter column %I set generated always', n.nspname, c.relname, a.attname)
    from pg_catalog.pg_attribute a
    join pg_catalog.pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p') and not c.relispartition
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where a.attidentity = 'a' and not a.attisdropped and n.nspname <> $1 and n.nspname !~ '^pg_'
    order by 1";

/// Tells whether a replay was prepared.
pub(super) async fn is_made(client: &Client) -> Result<bool, DbError> {
    let row = client
        .query_one("select pg_catalog.to_regnamespace($1) is not null", &[&SCHEMA])
        .await
        .doing(|| "look whether a replay was prepared".into())?;
    Ok(row.get(0))
}

/// Removes all of it, and puts back what was switched off.
pub(super) async fn unmake(client: &Client) -> Result<(), DbError> {
    let what = || "end the replay in the golden copy".to_owned();
    switch_on(client).await?;
    client
        .batch_execute("set client_min_messages = warning; drop schema piton_replay cascade")
        .await
        .doing(what)
}

async fn note(client: &Client, stage: i32, layout: &Layout) -> Result<(), DbError> {
    client
        .execute("insert into piton_replay.layout values ($1, $2)", &[&stage, &text(layout)?])
        .await
        .map(drop)
        .doing(|| "note how the tables are laid out".into())
}

/// Notes the live database's layout after one more revision.
pub(super) async fn note_next(client: &Client, layout: &Layout) -> Result<(), DbError> {
    let what = || "note how the tables are laid out".to_owned();
    let row = client.query_one("select max(stage) + 1 from piton_replay.layout", &[]).await.doing(what)?;
    note(client, row.get(0), layout).await
}

/// Notes that the layout that was noted last is the migration's end.
pub(super) async fn note_applied(client: &Client) -> Result<(), DbError> {
    client
        .execute("update piton_replay.mark set applied = true", &[])
        .await
        .map(drop)
        .doing(|| "note that the migration is applied".into())
}

/// Returns the golden copy's layout and those of the live database.
pub(super) async fn layouts(client: &Client) -> Result<(Layout, Vec<Layout>), DbError> {
    let rows = client
        .query("select layout from piton_replay.layout order by stage", &[])
        .await
        .doing(|| "read how the tables were laid out".into())?;
    let mut layouts = rows.iter().map(|row| value(row.get(0))).collect::<Result<Vec<Layout>, _>>()?;
    if layouts.len() < 2 {
        return Err(DbError::Replay("nobody has noted how its tables were laid out".into()));
    }
    let golden = layouts.remove(0);
    Ok((golden, layouts))
}

/// Reads where the replay stands; waits for a session that was left while it committed.
pub(super) async fn mark(client: &Client) -> Result<Mark, DbError> {
    let row = client
        .query_one(
            "select reached, seen, sees, way, record, written, altered, applied, later from piton_replay.mark for update",
            &[],
        )
        .await
        .doing(|| "read where the replay stands".into())?;
    let parse = |at: usize| row.get::<_, String>(at);
    Ok(Mark {
        reached: parse(0).parse().map_err(DbError::Replay)?,
        seen: value(&parse(1))?,
        sees: parse(2).parse().map_err(DbError::Replay)?,
        way: value(&parse(3))?,
        record: value(&parse(4))?,
        written: row.get(5),
        altered: value(&parse(6))?,
        applied: row.get(7),
        later: value::<Vec<_>>(&parse(8))?.into_iter().collect(),
    })
}

/// Moves the mark, in the transaction that is open.
pub(super) async fn advance(
    client: &Client,
    reached: Lsn,
    routes: &Routes,
    written: i64,
) -> Result<(), DbError> {
    let later: Vec<_> = routes.later.iter().collect();
    client
        .execute(
            "update piton_replay.mark set reached = $1, seen = $2, altered = $3, written = $4, later = $5",
            &[&reached.to_string(), &text(&routes.seen)?, &text(&routes.altered)?, &written, &text(&later)?],
        )
        .await
        .map(drop)
        .doing(|| "note where the replay stands".into())
}

/// Notes that the migration has written rows of a place, whatever is known of them: under a key that no row has.
pub(super) async fn note_own(client: &Client, place: &str) -> Result<(), DbError> {
    client
        .execute("insert into piton_replay.own values ($1, '', '{}')", &[&place])
        .await
        .map(drop)
        .doing(|| "note what the migration has written".into())
}

/// Returns a key as it is kept: a JSON list of its columns' texts.
pub(super) fn stored(key: &str) -> String {
    serde_json::Value::from(parts(key).collect::<Vec<_>>()).to_string()
}

/// Reads a key as it is kept.
pub(super) fn loaded(text: &str) -> Result<Key, DbError> {
    Ok(value::<Vec<String>>(text)?.join("\0"))
}

/// A row that could not be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetAside {
    pub(super) place: String,
    pub(super) key: Key,
    pub(super) why: String,
    /// Whether the migration has made it.
    pub(super) of_migration: bool,
}

/// Forgets what is noted of what is new in the rows of tables that were emptied.
pub(super) async fn forget_new(client: &Client, tables: &[u32]) -> Result<(), DbError> {
    for notes in ["touched", "left_by"] {
        let forget = format!("delete from piton_replay.{notes} where tab = any($1)");
        client
            .execute(&forget, &[&tables])
            .await
            .doing(|| "forget rows of a table that was emptied".into())?;
    }
    Ok(())
}

/// Reads the rows that are set aside.
pub(super) async fn aside(client: &Client) -> Result<Vec<SetAside>, DbError> {
    let rows = client
        .query("select place, key, why, of_migration from piton_replay.aside order by place, key", &[])
        .await
        .doing(|| "read what is set aside".into())?;
    rows.iter().map(row_aside).collect()
}

fn row_aside(row: &tokio_postgres::Row) -> Result<SetAside, DbError> {
    Ok(SetAside { place: row.get(0), key: loaded(row.get(1))?, why: row.get(2), of_migration: row.get(3) })
}

/// Sets rows aside.
pub(super) async fn set_aside(client: &Client, rows: &[SetAside]) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let places: Vec<&str> = rows.iter().map(|row| row.place.as_str()).collect();
    let keys: Vec<String> = rows.iter().map(|row| stored(&row.key)).collect();
    let whys: Vec<&str> = rows.iter().map(|row| row.why.as_str()).collect();
    let of_migration: Vec<bool> = rows.iter().map(|row| row.of_migration).collect();
    client
        .execute(
            "insert into piton_replay.aside select * from unnest($1::text[], $2::text[], $3::text[], $4::bool[])",
            &[&places, &keys, &whys, &of_migration],
        )
        .await
        .map(drop)
        .doing(|| "set rows aside".into())
}

/// Forgets rows of a place that were set aside, and returns them.
pub(super) async fn forget_aside(
    client: &Client,
    place: &str,
    keys: impl Iterator<Item = &Key>,
) -> Result<Vec<SetAside>, DbError> {
    let keys: Vec<String> = keys.map(|key| stored(key)).collect();
    let rows = client
        .query(
            "delete from piton_replay.aside where place = $1 and key = any($2) returning place, key, why, of_migration",
            &[&place, &keys],
        )
        .await
        .doing(|| "forget rows that were set aside".into())?;
    rows.iter().map(row_aside).collect()
}
