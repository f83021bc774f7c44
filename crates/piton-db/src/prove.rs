//! The proof of a backup: restored into a new database and compared, row for row and object for object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::Path;

use piton_exec::Command;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio_postgres::Client;

use crate::backup::{self, dump_dir, finished_table};
use crate::capture::triggers;
use crate::fingerprint::{Change, Rows, Structure};
use crate::identity::{self, Label, Purpose};
use crate::large_objects::{self, LargeObject};
use crate::made::{self, Made};
use crate::manifest::{Manifest, SequenceAt};
use crate::progress::{self, OnProgress, OnReport, Progress, Report};
use crate::properties::{DEFAULT_TABLESPACE, Properties};
use crate::rowsum::RowSum;
use crate::tools::{Tools, WorkMark, wanted_success};
use crate::versions::{self, OtherVersion};
use crate::{Database, DbError, brought, cron, neutral, toc};

/// Whose a restored copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// The original's owners and privileges: the copy can take its place.
    Kept,
    /// The restoring user owns everything: the copy is for another environment, whose user may not even know the original's roles.
    Restorer,
}

/// Builds the command that restores a backup into a new database, or of it what a list names.
pub fn restore_command(
    tools: &Tools,
    into: &Database,
    dir: &Path,
    list: Option<&Path>,
    owners: Owners,
    jobs: u32,
) -> Command {
    let command = Command::new(tools.pg_restore.display().to_string()).args([
        format!("--dbname={}", into.name_for_libpq()),
        format!("--jobs={jobs}"),
        "--exit-on-error".to_owned(),
        "--no-password".to_owned(),
        "--verbose".to_owned(),
    ]);
    let command = match owners {
        Owners::Kept => command,
        // Another environment's copy shall not fetch what the original subscribes to.
        Owners::Restorer => command.args(["--no-owner", "--no-privileges", "--no-subscriptions"]),
    };
    let command = match list {
        Some(list) => command.arg(format!("--use-list={}", list.display())),
        None => command,
    };
    into.tool_env(command.arg(dump_dir(dir).display().to_string()))
}

/// Restores a backup into a new database, the golden copy, which this makes.
///
/// A golden copy with the same label is dropped first: it may be half restored. When the restore fails, nothing is left.
///
/// # Errors
/// [`DbError::NameTaken`] when the name belongs to another database; [`DbError::Tool`] with pg_restore's own words.
pub async fn restore(
    dir: &Path,
    into: &Database,
    label: &Label,
    owners: Owners,
    jobs: u32,
    report: OnReport<'_>,
) -> Result<(), DbError> {
    let manifest = Manifest::read(dir)?;
    let label = Label { purpose: Purpose::Golden, ..label.clone() };
    let mut like = manifest.properties.clone();
    if owners == Owners::Restorer {
        // Another environment's server need not have it.
        like.tablespace = DEFAULT_TABLESPACE.into();
    }
    let workers = WorkMark::restore_into(into);
    workers.end_all().await;
    if made::create(into, &like, &label).await? == Made::Existing {
        made::drop_made(into, &label).await?;
        made::create(into, &like, &label).await?;
    }
    let restored = fill(&manifest, dir, into, owners, jobs, report).await;
    if restored.is_err() {
        workers.end_all().await;
        // The restore's error is the one to tell; a leftover carries the golden mark and goes with the next attempt.
        let _ = made::drop_made(into, &label).await;
    }
    restored
}

async fn fill(
    manifest: &Manifest,
    dir: &Path,
    into: &Database,
    owners: Owners,
    jobs: u32,
    report: OnReport<'_>,
) -> Result<(), DbError> {
    let client = into.connect().await?;
    let tools = Tools::find(identity::identity(&client).await?.major()).await?;
    if owners == Owners::Kept {
        // Before the restore: only who may create in a schema can be given an object in it, and `public` is the owner's.
        manifest.properties.apply_owner(&client, &into.dbname).await?;
    }
    versions::create_extensions(&client, &manifest.structure, cron::is_its).await?;
    let for_another = manifest.made_for.from.is_some();
    // Under the name that it may have, too: its jobs would run before anything is proved.
    let without_cron = cron::is_in(&manifest.structure);
    let left_out = |line: &str| {
        for_another && neutral::reaches_out(line, &manifest.foreign_views)
            || without_cron && cron::is_entry(line)
            // Nobody writes to a copy for long; what notes that may be in any dump.
            || triggers::is_entry(line)
    };
    let list = match for_another || without_cron || toc::mentions(&dump_dir(dir), triggers::SCHEMA)? {
        true => Some(list_without(&tools, dir, left_out, report).await?),
        false => None,
    };
    let command = restore_command(&tools, into, dir, list.as_ref().map(NamedTempFile::path), owners, jobs);
    let total = manifest.tables.len() as u64;
    let mut done = 0;
    let on_line = |line: &str, report: &mut dyn FnMut(Report)| {
        if let Some(what) = finished_table(line) {
            done += 1;
            report(Report::Progress(Progress { doing: "restore", what: what.to_owned(), done, total }));
        }
    };
    WorkMark::restore_into(into).run(&command, report, on_line).await?;
    neutral::analyze(&client).await?;
    if owners == Owners::Restorer {
        return manifest.properties.clone().for_others().apply_settings(&client, &into.dbname).await;
    }
    // Whoever swaps this database in expects the original's owner, limits and settings; neither dump nor rename carries them.
    manifest.properties.apply(&client, &into.dbname).await?;
    identity::set_own_comment(&client, &into.dbname, manifest.properties.comment.as_deref()).await
}

/// Lists what of a dump is restored: whatever is not left out.
async fn list_without(
    tools: &Tools,
    dir: &Path,
    left_out: impl Fn(&str) -> bool,
    report: OnReport<'_>,
) -> Result<NamedTempFile, DbError> {
    let command = backup::list_command(tools, dir);
    let mut kept = String::new();
    let output = progress::run(&command, &command, report, |line, _| {
        if !left_out(line) {
            kept.push_str(line);
            kept.push('\n');
        }
    })
    .await?;
    wanted_success(&command, output)?;
    let mut list = NamedTempFile::new()?;
    list.write_all(kept.as_bytes())?;
    Ok(list)
}

/// One thing in which a restored copy differs from its backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Difference {
    /// A table's rows.
    Rows {
        /// The table.
        table: String,
        /// What the dump holds; `None` when the table is not in it.
        dumped: Option<RowSum>,
        /// What the copy holds; `None` when the table is missing.
        restored: Option<RowSum>,
    },
    /// An object.
    Object(Change),
    /// What belongs to the database and not to its contents.
    Property {
        /// What is wrong, in words.
        what: String,
    },
    /// A sequence that would hand out values again.
    Sequence {
        /// The sequence.
        name: String,
        /// The value that the source would have handed out next.
        source: i64,
        /// The value that the copy would; `None` when it is missing.
        restored: Option<i64>,
    },
    /// A large object.
    LargeObject {
        /// Its number.
        oid: u32,
        /// What is wrong with it.
        found: Found,
    },
}

/// How a large object of the copy differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// It was not restored.
    Missing,
    /// The source has none of this number.
    Strange,
    /// It has other contents.
    Contents,
    /// It has another comment.
    Comment,
    /// It has another owner or other privileges.
    Privileges,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows { table, dumped: Some(_), restored: None } => write!(f, "table {table} is missing"),
            Self::Rows { table, dumped: None, .. } => write!(f, "table {table} is not in the dump"),
            Self::Rows { table, dumped: Some(dumped), restored: Some(restored) } => {
                if dumped.rows == restored.rows {
                    write!(f, "table {table}: {} rows as dumped, with other contents", dumped.rows)
                } else {
                    write!(f, "table {table}: {} rows dumped, {} restored", dumped.rows, restored.rows)
                }
            }
            Self::Object(change) => {
                change.fmt(f)?;
                let Change::Removed { object, definition } = change else { return Ok(()) };
                if is_invalid_index(object, definition) {
                    let index = object.trim_start_matches("index ");
                    return write!(
                        f,
                        ": it is invalid in the original, where a concurrent build has failed, and no dump has such a one; DROP INDEX \
                         CONCURRENTLY {index}, or REINDEX INDEX CONCURRENTLY {index}"
                    );
                }
                match brought::member(object) {
                    Some((extension, member)) if definition.is_empty() => write!(
                        f,
                        ": no dump has what was made a member; ALTER EXTENSION {extension} DROP {} makes it the database's own",
                        brought::in_sql(member)
                    ),
                    Some(_) => write!(f, ": no dump has what was added to an extension"),
                    None => Ok(()),
                }
            }
            Self::Property { what } => write!(f, "the database: {what}"),
            Self::Sequence { name, source, restored: Some(restored) } => {
                write!(f, "sequence {name}: its next value was {source}, restored it is {restored}")
            }
            Self::Sequence { name, .. } => write!(f, "sequence {name} is missing"),
            Self::LargeObject { oid, found } => match found {
                Found::Missing => write!(f, "large object {oid} is missing"),
                Found::Strange => write!(f, "large object {oid} is not in the dump"),
                Found::Contents => write!(f, "large object {oid} has other contents"),
                Found::Comment => write!(f, "large object {oid} has another comment"),
                Found::Privileges => write!(f, "large object {oid} has another owner or other privileges"),
            },
        }
    }
}

fn is_invalid_index(object: &str, definition: &str) -> bool {
    object.starts_with("index ") && format!("{definition} ").contains(" invalid ")
}

/// What a comparison has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How many tables were compared.
    pub tables: u64,
    /// How many rows were read and compared.
    pub rows: u64,
    /// How many objects were compared.
    pub objects: u64,
    /// What differs; the backup is proved when this is empty.
    pub differences: Vec<Difference>,
    /// What the server has in another version than the original's: told apart, because it is no fault of the backup.
    pub versions: Vec<OtherVersion>,
    /// Whether the copy is without pg_cron, which the original has.
    pub without_cron: bool,
}

impl Proof {
    /// Tells whether the copy is the backup's equal.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compares a restored copy with its backup's manifest: rows, objects, sequences and large objects, and where it can take the
/// original's place, what belongs to the database itself.
///
/// Nobody may write to the copy meanwhile.
///
/// # Errors
/// When the copy cannot be read.
pub async fn compare(
    manifest: &Manifest,
    golden: &Database,
    owners: Owners,
    progress: OnProgress<'_>,
) -> Result<Proof, DbError> {
    let client = golden.connect().await?;
    let (mut wanted, structure) = match owners {
        Owners::Kept => (manifest.structure.clone(), Structure::read(&client).await?),
        Owners::Restorer => {
            let restored = |structure: &Structure| structure.without_privileges().without_subscriptions();
            (restored(&manifest.structure), restored(&Structure::read(&client).await?))
        }
    };
    if manifest.made_for.from.is_some() {
        wanted = wanted.without_user_mappings();
        for view in manifest.foreign_views.values() {
            let definition = wanted.0.get_mut(&format!("materialized view {view}"));
            if let Some(definition) = definition.filter(|definition| !definition.ends_with(NOT_FILLED)) {
                definition.push_str(NOT_FILLED);
            }
        }
    }
    let without_cron = cron::is_in(&wanted) && !cron::is_in(&structure);
    let left_out = |table: &str| without_cron && cron::is_its_table(table);
    if without_cron {
        wanted.0.retain(|object, _| !cron::is_its(object));
    }
    let rows = read_rows(&client, manifest, progress).await?;
    let dumped = manifest.rows.iter().filter(|(table, _)| !left_out(table));
    let mut differences = differing_rows(&dumped.map(|(table, sum)| (table.clone(), *sum)).collect(), &rows);
    let (mut versions, changes) = versions::other_extensions(wanted.changes_to(&structure));
    versions
        .extend(versions::other_collations(&manifest.collations, &versions::own_collations(&client).await?));
    let brought = brought::read(&client).await?;
    let lost = brought::lost(&manifest.brought, &brought, &structure, &versions);
    differences.extend(changes.into_iter().chain(lost).map(Difference::Object));
    if owners == Owners::Kept {
        let properties = Properties::read(&client, &golden.dbname).await?;
        let changes = manifest.properties.changes_to(&properties);
        differences.extend(changes.into_iter().map(|what| Difference::Property { what }));
    }
    let sequences = backup::sequences(&client).await?;
    for (name, source) in &manifest.sequences {
        if without_cron && cron::is_its(name) {
            continue;
        }
        let restored = sequences.get(name).map(SequenceAt::next);
        if !restored.is_some_and(|restored| has_reached(source, restored)) {
            differences.push(Difference::Sequence { name: name.clone(), source: source.next(), restored });
        }
    }
    let large_objects = large_objects::read(&client).await?;
    differences.extend(differing_large_objects(&manifest.large_objects, &large_objects, owners));
    Ok(Proof {
        tables: rows.len() as u64,
        rows: rows.values().map(|table| table.rows).sum(),
        objects: structure.0.len() as u64,
        differences,
        versions,
        without_cron,
    })
}

/// What the listing says of a materialized view that is not filled.
const NOT_FILLED: &str = " with no data";

async fn read_rows(client: &Client, manifest: &Manifest, progress: OnProgress<'_>) -> Result<Rows, DbError> {
    let tables = crate::tables::list(client).await?;
    let total = tables.len() as u64;
    let mut rows = Rows::new();
    for table in tables {
        let name = table.quoted();
        // The dump's order of columns: a child of an inherited table is restored with its parent's columns first.
        let dumped = manifest.tables.iter().find(|dumped| dumped.quoted() == name);
        let columns = match dumped {
            Some(dumped) if same_names(&dumped.columns, &table.columns) => &dumped.columns,
            _ => &table.columns,
        };
        rows.insert(name.clone(), crate::tables::sum(client, &table, columns).await?);
        progress(Progress { doing: "compare", what: name, done: rows.len() as u64, total });
    }
    Ok(rows)
}

fn same_names(a: &[String], b: &[String]) -> bool {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    sorted(a) == sorted(b)
}

fn differing_rows(dumped: &Rows, restored: &Rows) -> Vec<Difference> {
    let mut names: Vec<&String> = dumped.keys().chain(restored.keys()).collect();
    names.sort();
    names.dedup();
    let both = names.into_iter().map(|name| (name, dumped.get(name).copied(), restored.get(name).copied()));
    both.filter(|(_, dumped, restored)| dumped != restored)
        .map(|(name, dumped, restored)| Difference::Rows { table: name.clone(), dumped, restored })
        .collect()
}

fn differing_large_objects(
    dumped: &BTreeMap<u32, LargeObject>,
    restored: &BTreeMap<u32, LargeObject>,
    owners: Owners,
) -> Vec<Difference> {
    let oids: BTreeSet<u32> = dumped.keys().chain(restored.keys()).copied().collect();
    let found = |oid: u32| match (dumped.get(&oid), restored.get(&oid)) {
        (Some(_), None) => Some(Found::Missing),
        (None, _) => Some(Found::Strange),
        (Some(dumped), Some(restored)) if dumped.sha256 != restored.sha256 => Some(Found::Contents),
        (Some(dumped), Some(restored)) if dumped.comment != restored.comment => Some(Found::Comment),
        (Some(dumped), Some(restored)) => {
            let same = (&dumped.owner, &dumped.grants) == (&restored.owner, &restored.grants);
            (owners == Owners::Kept && !same).then_some(Found::Privileges)
        }
    };
    oids.into_iter().filter_map(|oid| Some(Difference::LargeObject { oid, found: found(oid)? })).collect()
}

/// A sequence goes on while the dump runs, so that its copy may be ahead; one that cycles may be anywhere.
fn has_reached(source: &SequenceAt, restored: i64) -> bool {
    let next = source.next();
    source.cycles || if source.increment > 0 { restored >= next } else { restored <= next }
}
