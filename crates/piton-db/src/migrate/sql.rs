//! A folder of plain SQL files, applied in the order of their names.
//!
//! The record is the table `piton.migrations` in the app's own database, so that it goes into every dump, copy and rollback
//! along with what it describes. It has a schema of its own: other tools take a strange table in `public` for drift.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::adapter::{IN_PARTS, NO_DOWN};
use super::index::{self, Standing};
use super::run::{self, Script};
use super::{Applied, MigrateOptions, Migration, MigrationError, Obstacle, Recorded, State};
use crate::error::Doing;
use crate::progress::{OnProgress, Progress, millis};
use crate::{Database, DbError};

/// The schema of the record; not the app's own data.
pub(crate) const SCHEMA: &str = "piton";
/// The table of the record.
pub(crate) const TABLE: &str = "migrations";

/// A folder of migrations.
#[derive(Clone, Debug)]
pub struct SqlFolder {
    dir: PathBuf,
}

/// A row of the record.
pub(super) struct Record {
    pub(super) blake3: String,
    finished_at: Option<String>,
    error: Option<String>,
    /// How many statements are surely done, of a file that runs statement by statement.
    pub(super) done: u32,
    of: u32,
    /// Whether the session was lost while the next one ran.
    pub(super) running: bool,
    /// The index that the next one builds, quoted, where there was none of that name before.
    pub(super) building: Option<String>,
}

impl Record {
    /// Tells whether the database has all or a part of the migration.
    fn stands(&self) -> bool {
        self.finished_at.is_some() || self.done > 0 || self.running
    }
}

impl SqlFolder {
    /// Names a folder; it is read at each call.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Tells whether a file of this name is a migration; a `.down.sql` is not.
    pub fn is_migration(name: &str) -> bool {
        name.ends_with(".sql") && !name.ends_with(".down.sql")
    }

    /// Lists the migrations of the folder and of the database's record, by name.
    ///
    /// # Errors
    /// When folder or record cannot be read.
    pub async fn status(&self, database: &Database) -> Result<Vec<Migration>, DbError> {
        let client = database.connect().await?;
        Ok(states(&self.files()?, &records(&client).await?))
    }

    /// Applies what is pending, in the order of the names.
    ///
    /// Each file runs in one transaction together with its record, so that it is applied and recorded or neither. A file with a
    /// statement that cannot run in a transaction (`CREATE INDEX CONCURRENTLY`) runs statement by statement. A second call
    /// carries on where the first stopped, within such a file as well; what an unfinished index build has left is built anew.
    ///
    /// # Errors
    /// [`MigrationError`], in [`DbError::Migration`]; what had been applied before the failing file stays.
    pub async fn apply(
        &self,
        database: &Database,
        options: MigrateOptions,
        progress: OnProgress<'_>,
    ) -> Result<Applied, DbError> {
        self.apply_when(database, options, progress, async |_| Ok(())).await
    }

    /// Applies what is pending as [`SqlFolder::apply`] does; before each file, `may_begin` is asked.
    ///
    /// # Errors
    /// As [`SqlFolder::apply`], and what `may_begin` says.
    pub async fn apply_when(
        &self,
        database: &Database,
        options: MigrateOptions,
        progress: OnProgress<'_>,
        mut may_begin: impl AsyncFnMut(&str) -> Result<(), DbError>,
    ) -> Result<Applied, DbError> {
        let mut client = database.connect().await?;
        run::lock(&client, options.wait_for_other).await?;
        create_record(&client, &database.user, &database.dbname).await?;
        let files = self.files()?;
        let records = records(&client).await?;
        let todo = todo(&states(&files, &records))?;
        not_renamed(&files, &records)?;
        // Every file is read before the first one runs: a typing error in the last must not stop a release half-way.
        let scripts = todo
            .iter()
            .map(|name| Script::read(name, &files[name]))
            .collect::<Result<Vec<_>, MigrationError>>()?;
        let total = scripts.len() as u64;
        let (mut migrations, mut all) = (Vec::new(), Duration::ZERO);
        for script in &scripts {
            let what = script.name.clone();
            progress(Progress { doing: "migrate", what, done: migrations.len() as u64, total });
            may_begin(&script.name).await?;
            let took = script.run(&mut client, options, records.get(&script.name)).await?;
            migrations.push(script.name.clone());
            all += took;
        }
        Ok(Applied { migrations, millis: millis(all), unfinished: unfinished(&client).await? })
    }

    /// Takes migrations back by their down files, the last of the names first; returns how long that took. One that the database has
    /// not got is left out.
    ///
    /// The down file of `2_x.sql`, and of `2_x.up.sql`, is `2_x.down.sql`. It runs in one transaction together with its record.
    pub(super) async fn take_back(
        &self,
        database: &Database,
        names: &[String],
        options: MigrateOptions,
        progress: OnProgress<'_>,
    ) -> Result<Duration, DbError> {
        let mut client = database.connect().await?;
        run::lock(&client, options.wait_for_other).await?;
        let scripts = self.down(&client, names).await?;
        let (mut all, total) = (Duration::ZERO, scripts.len() as u64);
        for (done, (name, script)) in (0..).zip(&scripts) {
            progress(Progress { doing: "take back", what: script.name.clone(), done, total });
            all += script.take_back(&mut client, options, name).await?;
        }
        Ok(all)
    }

    /// Wants each migration to have a down file that can be tried, as [`SqlFolder::take_back`] does; changes nothing.
    pub(super) async fn may_take_back(&self, database: &Database, names: &[String]) -> Result<(), DbError> {
        self.down(&*database.connect().await?, names).await.map(drop)
    }

    /// Reads the down files of those migrations that the database has, the last one first.
    async fn down<'n>(
        &self,
        client: &Client,
        names: &'n [String],
    ) -> Result<Vec<(&'n String, Script)>, DbError> {
        let records = records(client).await?;
        let mut scripts = Vec::new();
        for name in names.iter().rev().filter(|name| records.contains_key(*name)) {
            let stem = name.trim_end_matches(".sql").trim_end_matches(".up");
            let file = format!("{stem}.down.sql");
            let none = |why| MigrationError::NoWayBack { name: name.clone(), why };
            let text = self.text(&file)?.ok_or(none(NO_DOWN))?;
            let script = Script::read(&file, &text)?;
            if !script.is_one_transaction() {
                return Err(none(IN_PARTS).into());
            }
            scripts.push((name, script));
        }
        Ok(scripts)
    }

    /// Wants a migration to be half applied, as [`SqlFolder::resolve`] does; changes nothing.
    ///
    /// # Errors
    /// As [`SqlFolder::resolve`].
    pub async fn may_resolve(database: &Database, name: &str, text: Option<&str>) -> Result<(), DbError> {
        half_applied(&*database.connect().await?, name, text).await
    }

    /// Records a half-applied migration as applied, or as not applied, after a person has looked at the database.
    ///
    /// `text` is the file as the next run will have it; `None` when it is gone.
    ///
    /// # Errors
    /// [`MigrationError::NotHalfApplied`] for any other: it needs no person.
    pub async fn resolve(
        database: &Database,
        name: &str,
        text: Option<&str>,
        applied: bool,
    ) -> Result<(), DbError> {
        let client = database.connect().await?;
        run::lock(&client, MigrateOptions::default().wait_for_other).await?;
        half_applied(&client, name, text).await?;
        let checksum = text.map(checksum);
        let changed = if applied {
            let sql = "update piton.migrations
                       set blake3 = coalesce($2, blake3), finished_at = now(), running = false, error = null where name = $1";
            client.execute(sql, &[&name, &checksum]).await
        } else {
            client.execute("delete from piton.migrations where name = $1", &[&name]).await
        };
        changed.doing(|| format!("record {name}")).map(drop)
    }

    /// Lists the migrations of which the database has all or a part, by name; its record alone is asked.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn recorded(database: &Database) -> Result<Vec<Recorded>, DbError> {
        let client = database.connect().await?;
        let records = records(&client).await?.into_iter().filter(|(_, record)| record.stands());
        let one = |(name, record): (String, Record)| Recorded {
            name,
            finished: record.finished_at.is_some(),
            done: record.done,
        };
        Ok(records.map(one).collect())
    }

    /// Wants nothing in the record to stand in the way of the next run, with the folder's files: nothing that was edited or
    /// renamed since it was applied, and of what is half applied only what that run carries on.
    ///
    /// # Errors
    /// [`MigrationError`]; a file that cannot be read or taken apart is the run's to tell.
    pub async fn may_begin(&self, database: &Database) -> Result<(), DbError> {
        let files = self.read(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned()))?;
        let records = records(&*database.connect().await?).await?;
        todo(&states(&files, &records))?;
        not_renamed(&files, &records)?;
        for (name, text) in &files {
            let half = records.get(name).filter(|record| record.finished_at.is_none() && record.stands());
            if let (Some(record), Ok(script)) = (half, Script::read(name, text)) {
                script.is_certain(record)?;
            }
        }
        Ok(())
    }

    /// Tells whether the migration that comes next surely runs in one transaction.
    pub(super) async fn next_is_one_transaction(&self, database: &Database) -> bool {
        let Ok(states) = self.status(database).await else { return false };
        let next = states.iter().find(|one| !one.is_applied());
        let text = next.and_then(|next| self.text(&next.name).ok().flatten());
        text.is_some_and(|text| !super::runs_one_by_one(&text))
    }

    /// Reads a migration's file; `None` when there is none.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, DbError> {
        match fs::read_to_string(self.dir.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells whether the database has a record of migrations.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn is_recorded(database: &Database) -> Result<bool, DbError> {
        let client = database.connect().await?;
        has_record(&client).await
    }

    /// Removes from the record what failed and left nothing, and the record itself when it is empty and `keep` is false.
    ///
    /// The invalid index that a failed build has left is dropped before.
    ///
    /// # Errors
    /// When the record cannot be changed; [`DbError::InUse`] when others stand in the way of the drop.
    pub async fn forget_failed(database: &Database, keep: bool) -> Result<(), DbError> {
        let client = database.connect().await?;
        let patience = MigrateOptions::default().wait_for_other;
        run::lock(&client, patience).await?;
        if !has_record(&client).await? {
            return Ok(());
        }
        let what = || "tidy the record of migrations".to_owned();
        for (name, record) in records(&client).await? {
            let (None, Some(index)) = (record.finished_at, record.building) else { continue };
            // A valid one was built by a person since, or its statement ended and is no failure.
            if index::standing(&client, &index).await? == Standing::Valid {
                continue;
            }
            index::drop_invalid(&client, &index, patience).await?;
            client
                .execute(
                    "update piton.migrations set running = false, building = null where name = $1",
                    &[&name],
                )
                .await
                .doing(what)?;
        }
        client
            .batch_execute(
                "delete from piton.migrations where finished_at is null and done = 0 and not running",
            )
            .await
            .doing(what)?;
        let row = client.query_one("select exists (select from piton.migrations)", &[]).await.doing(what)?;
        if !keep && !row.get::<_, bool>(0) {
            client.batch_execute("drop table piton.migrations").await.doing(what)?;
            // What somebody else put into the schema stays, and so does the schema then.
            match client.batch_execute("drop schema piton restrict").await {
                Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {}
                ended => ended.doing(what)?,
            }
        }
        Ok(())
    }

    fn files(&self) -> Result<BTreeMap<String, String>, DbError> {
        self.read(|path| fs::read_to_string(path))
    }

    fn read(&self, read: fn(&Path) -> std::io::Result<String>) -> Result<BTreeMap<String, String>, DbError> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if let Some(name) = migration_name(&path) {
                files.insert(name, read(&path)?);
            }
        }
        Ok(files)
    }
}

fn migration_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    (path.is_file() && SqlFolder::is_migration(name)).then(|| name.to_owned())
}

pub(super) fn checksum(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn states(files: &BTreeMap<String, String>, records: &BTreeMap<String, Record>) -> Vec<Migration> {
    // What failed and left nothing, and has no file any more, is nothing.
    let recorded_only = records.iter().filter(|(name, record)| record.stands() && !files.contains_key(*name));
    let mut names: Vec<&String> = files.keys().chain(recorded_only.map(|(name, _)| name)).collect();
    names.sort();
    let one = |name: &String| Migration {
        name: name.clone(),
        state: state(files.get(name).map(String::as_str), records.get(name)),
    };
    names.into_iter().map(one).collect()
}

fn state(file: Option<&str>, record: Option<&Record>) -> State {
    let Some(record) = record else { return State::Pending };
    if record.finished_at.is_some() {
        return match file {
            None => State::Missing,
            Some(text) if checksum(text) != record.blake3 => State::Changed,
            Some(_) => State::Applied,
        };
    }
    if record.stands() {
        return State::HalfApplied {
            done: record.done,
            of: record.of,
            running: record.running,
            edited: file.is_none_or(|text| checksum(text) != record.blake3),
            error: record.error.clone(),
        };
    }
    State::Failed { error: record.error.clone().unwrap_or_else(|| "it was interrupted".into()) }
}

/// Lists what is to be run, or why nothing may be.
fn todo(states: &[Migration]) -> Result<Vec<String>, MigrationError> {
    let mut todo = Vec::new();
    for Migration { name, state } in states {
        let name = name.clone();
        match *state {
            State::Changed => return Err(MigrationError::Changed { name }),
            State::HalfApplied { done, of, edited: true, .. } => {
                return Err(MigrationError::HalfApplied { name, done, of, why: Obstacle::Edited });
            }
            State::Pending | State::Failed { .. } | State::HalfApplied { .. } => todo.push(name),
            // A release that went back to older code has fewer files than its database.
            State::Applied | State::Missing | State::Unknown => {}
        }
    }
    Ok(todo)
}

/// Refuses a file that is pending under its name, and applied under one that the folder has no longer.
fn not_renamed(
    files: &BTreeMap<String, String>,
    records: &BTreeMap<String, Record>,
) -> Result<(), MigrationError> {
    let missing =
        records.iter().filter(|(name, record)| record.finished_at.is_some() && !files.contains_key(*name));
    let missing: BTreeMap<&str, &String> = missing.map(|(name, record)| (&*record.blake3, name)).collect();
    for (name, text) in files.iter().filter(|(name, _)| !records.contains_key(*name)) {
        if let Some(from) = missing.get(&*checksum(text)) {
            return Err(MigrationError::Renamed { name: name.clone(), from: (*from).clone() });
        }
    }
    Ok(())
}

async fn half_applied(client: &Client, name: &str, text: Option<&str>) -> Result<(), DbError> {
    let stands = match records(client).await?.get(name) {
        Some(record) => state(text, Some(record)),
        None if text.is_some() => State::Pending,
        None => return Err(MigrationError::Unknown { name: name.to_owned() }.into()),
    };
    match stands {
        State::HalfApplied { .. } => Ok(()),
        other => {
            Err(MigrationError::NotHalfApplied { name: name.to_owned(), stands: other.in_words() }.into())
        }
    }
}

async fn has_record(client: &Client) -> Result<bool, DbError> {
    let row = client
        .query_one("select pg_catalog.to_regclass('piton.migrations') is not null", &[])
        .await
        .doing(|| "look for the record of migrations".into())?;
    Ok(row.get(0))
}

async fn create_record(client: &Client, user: &str, dbname: &str) -> Result<(), DbError> {
    if has_record(client).await? {
        return Ok(());
    }
    client
        .batch_execute(
            "begin;
             create schema if not exists piton;
             create table piton.migrations (
                 name text primary key,
                 blake3 text not null,
                 started_at timestamptz not null,
                 finished_at timestamptz,
                 error text,
                 -- Of a file that runs statement by statement: how many are committed, of how many, and whether one is running.
                 done integer not null default 0,
                 of integer not null default 0,
                 running boolean not null default false,
                 -- The index that the next statement builds; what a failed build has left is dropped by this name.
                 building text
             );
             commit",
        )
        .await
        .needing(
            || "create the record of migrations".into(),
            || format!("GRANT CREATE ON DATABASE {} TO {}", crate::quote::ident(dbname), crate::quote::ident(user)),
        )
}

async fn records(client: &Client) -> Result<BTreeMap<String, Record>, DbError> {
    if !has_record(client).await? {
        return Ok(BTreeMap::new());
    }
    let rows = client
        .query("select name, blake3, finished_at::text, error, done, of, running, building from piton.migrations", &[])
        .await
        .doing(|| "read the record of migrations".into())?;
    let count = |n: i32| n.unsigned_abs();
    let record = |row: &tokio_postgres::Row| Record {
        blake3: row.get(1),
        finished_at: row.get(2),
        error: row.get(3),
        done: count(row.get(4)),
        of: count(row.get(5)),
        running: row.get(6),
        building: row.get(7),
    };
    Ok(rows.iter().map(|row| (row.get(0), record(row))).collect())
}

/// Lists what concurrent and unvalidated statements may have left behind.
pub(super) async fn unfinished(client: &Client) -> Result<Vec<String>, DbError> {
    let rows = client
        .query(
            "select pg_catalog.format('index %1$s is invalid: DROP INDEX CONCURRENTLY %1$s, and build it again', indexrelid::regclass)
             from pg_catalog.pg_index where not indisvalid
               and not exists (select from pg_catalog.pg_class c where c.oid = indexrelid and c.relkind = 'I')
             union all
             select pg_catalog.format('constraint %I on %s is not validated: ALTER TABLE %s VALIDATE CONSTRAINT %I',
                                      conname, conrelid::regclass, conrelid::regclass, conname)
             from pg_catalog.pg_constraint where not convalidated and conrelid <> 0
             union all
             select pg_catalog.format('partition %1$s is not detached to the end: ALTER TABLE %2$s DETACH PARTITION %1$s FINALIZE',
                                      inhrelid::regclass, inhparent::regclass)
             from pg_catalog.pg_inherits where inhdetachpending
             order by 1",
            &[],
        )
        .await
        .doing(|| "look for invalid indexes, constraints and partitions".into())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
