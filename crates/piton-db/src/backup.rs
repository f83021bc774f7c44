//! A backup: a dump at an exported snapshot, summed row for row from its own bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use piton_exec::Command;
use tokio_postgres::Client;

use crate::archive::{self, Archive};
use crate::capture::Keyless;
use crate::error::Doing;
use crate::fingerprint::{Rows, Structure};
use crate::identity;
use crate::manifest::{FileSum, MadeFor, Manifest, SequenceAt, Uncommitted};
use crate::mask::{LargeObjects, Mask, MaskKey, Rules, TableMask, TableMasks};
use crate::progress::{self, OnReport, Progress, Report};
use crate::properties::Properties;
use crate::rowsum::RowSum;
use crate::tables::{self, Table};
use crate::target::pin;
use crate::tools::{Tools, WorkMark, in_english, succeeded, wanted_success};
use crate::{
    Database, DbError, brought, capture, dumpfile, files, large_objects, neutral, quote, toc, versions,
};

pub use crate::files::MARKER;

/// The dump's folder within the backup's.
const DUMP: &str = "dump";

/// How a dump is made.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// How many tables are dumped at once; each takes a session.
    pub jobs: u32,
    /// How long to wait for a table that somebody holds an exclusive lock on.
    pub lock_wait: Duration,
    /// Tables of which no row is copied, as `schema.table`, or `table` in `public`; none where the dump is a backup.
    pub empty: BTreeSet<String>,
    /// What is masked, and with which key; `None` where the dump is a backup.
    pub mask: Option<(Mask, MaskKey)>,
    /// The tables of which Piton has the log tell whole rows, until a release has settled.
    pub whole: Vec<Keyless>,
    /// What belongs to the backup besides the database.
    pub beside: Beside,
}

/// What belongs to a backup besides the database. It is taken after the dump, so that a file that a row names is there.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Folders and files, absolute.
    pub files: Vec<PathBuf>,
    /// Files with secrets, encrypted with age for the recipients.
    pub secret_files: Vec<PathBuf>,
    /// Public keys of age.
    pub recipients: Vec<String>,
    /// What is not committed in the folder that releases are made from.
    pub uncommitted: Option<(Uncommitted, Vec<u8>)>,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            jobs: 2,
            lock_wait: Duration::from_secs(10),
            empty: BTreeSet::new(),
            mask: None,
            whole: Vec::new(),
            beside: Beside::default(),
        }
    }
}

/// Builds the command that dumps a database into the backup's folder, for its own environment or for another one.
///
/// gzip at level 1 is what every pg_dump can write; level 6, its default, costs three times the processor for a tenth less disk.
pub fn dump_command(
    tools: &Tools,
    database: &Database,
    dir: &Path,
    snapshot: &str,
    for_another: bool,
    options: &DumpOptions,
) -> Command {
    let command = database.tool_env(Command::new(tools.pg_dump.display().to_string()).args([
        "--format=directory".to_owned(),
        format!("--file={}", dir.join(DUMP).display()),
        format!("--jobs={}", options.jobs),
        format!("--snapshot={snapshot}"),
        format!("--lock-wait-timeout={}", options.lock_wait.as_millis()),
        "--compress=1".to_owned(),
        "--encoding=UTF8".to_owned(),
        "--no-password".to_owned(),
        "--verbose".to_owned(),
    ]));
    // They are not restored there, and hold passwords.
    let command = if for_another { command.arg("--no-subscriptions") } else { command };
    if options.drops_large_objects() { command.arg("--no-blobs") } else { command }
}

impl DumpOptions {
    /// Returns what of the rows is left out or masked; `None` where the dump is a backup.
    fn rules(&self) -> Option<Rules<'_>> {
        let mask = self.mask.as_ref().map(|(mask, _)| mask);
        (mask.is_some() || !self.empty.is_empty()).then_some(Rules { empty: &self.empty, mask })
    }

    fn drops_large_objects(&self) -> bool {
        self.mask.as_ref().is_some_and(|(mask, _)| mask.large_objects == Some(LargeObjects::Drop))
    }
}

/// Dumps a database into a folder and describes what the dump holds.
///
/// A finished backup in the folder is returned as it is; what an unfinished attempt left there is removed first. When the dump
/// fails, nothing is left.
///
/// # Errors
/// [`DbError::ForeignFolder`] when the folder holds other files; [`DbError::SchemaMoves`] when tables come and go under every
/// attempt; [`DbError::Tool`] with pg_dump's own words, such as a full disk.
pub async fn dump(
    database: &Database,
    dir: &Path,
    made_for: &MadeFor,
    options: DumpOptions,
    report: OnReport<'_>,
) -> Result<Manifest, DbError> {
    match Manifest::read(dir) {
        Ok(finished) => return Ok(finished),
        Err(DbError::NoManifest { .. }) => {}
        Err(other) => return Err(other),
    }
    WorkMark::dump_into(dir)?.end_all().await;
    files::claim(dir)?;
    let made = dump_claimed(database, dir, made_for, options, report).await;
    if made.is_err() {
        // The dump's error is the one to tell; leftovers carry the marker and go with the next attempt.
        let _ = discard(dir).await;
    }
    made
}

/// Removes a backup, or what [`dump`] has begun of one; a folder that is not there is as good as removed.
///
/// The manifest goes after everything that it describes: a removal that was cut off leaves a folder that is still known for
/// the backup that it was, and can be carried on.
///
/// What still writes to it is ended before.
///
/// # Errors
/// [`DbError::ForeignFolder`] when the folder is not one of Piton's.
pub async fn discard(dir: &Path) -> Result<(), DbError> {
    WorkMark::dump_into(dir)?.end_all().await;
    files::discard(dir)
}

/// Tells whether a folder is all that is left of a backup whose removal was cut off at its end.
///
/// # Errors
/// When the folder cannot be read.
pub fn is_spent(dir: &Path) -> Result<bool, DbError> {
    files::is_spent(dir)
}

async fn dump_claimed(
    database: &Database,
    dir: &Path,
    made_for: &MadeFor,
    options: DumpOptions,
    report: OnReport<'_>,
) -> Result<Manifest, DbError> {
    let client = database.connect().await?;
    let source = identity::identity(&client).await?;
    let tools = Tools::find(source.major()).await?;
    if let Some(rules) = options.rules() {
        // Before anything is written that would have to be masked.
        rules.fit(&client).await?;
    }
    let snapshot = Snapshot::take(&client, options.lock_wait).await?;
    // Read from the session that exported the snapshot, so that the listing and the dump see one moment.
    let mut structure = Structure::read(&client).await?;
    let brought = brought::read(&client).await?;
    let sequences = sequences(&client).await?;
    let mut large_objects = match options.drops_large_objects() {
        true => BTreeMap::new(),
        false => large_objects::list(&client).await?,
    };
    let foreign_views = neutral::foreign_views(&client).await?;
    let mut properties = Properties::read(&client, &source.name).await?;
    let for_another = made_for.from.is_some();
    if for_another {
        structure = structure.without_passwords();
        properties = properties.for_others();
    }
    let collations = versions::collations(&client).await?;
    let size = client
        .query_one("select pg_catalog.pg_database_size(pg_catalog.current_database())", &[])
        .await
        .doing(|| format!("measure {}", source.name))?;
    let masks = match options.rules() {
        Some(rules) => {
            let key = options.mask.as_ref().map(|(_, key)| key);
            Some(rules.of_tables(&client, &snapshot.tables, key).await?)
        }
        None => None,
    };

    let command = dump_command(&tools, database, dir, &snapshot.id, for_another, &options);
    run_dump(&command, dir, snapshot.tables.len() as u64, report).await?;
    drop(client);
    if for_another {
        toc::blank_secrets(&dir.join(DUMP))?;
    }

    let archives = options.beside.take(dir, report).await?;
    let sums = sum_dump(&tools, dir, &snapshot.tables, masks, options.jobs, report).await?;
    for (oid, object) in &mut large_objects {
        let sum = sums.large_objects.get(oid).ok_or_else(|| DbError::BadDump {
            file: dir.join(DUMP),
            why: format!("it has no file for the large object {oid}"),
        })?;
        object.sha256.clone_from(sum);
    }
    files::sync_all_dirs(dir)?;
    let manifest = Manifest {
        format: Manifest::format(),
        made_for: made_for.clone(),
        source,
        snapshot_at: snapshot.at,
        sees: snapshot.sees,
        pg_dump: tools.version,
        tables: snapshot.tables,
        rows: sums.rows,
        structure,
        brought,
        sequences,
        large_objects,
        foreign_views,
        properties,
        collations,
        database_bytes: u64::try_from(size.get::<_, i64>(0)).ok(),
        files: sums.files,
        whole: options.whole,
        mask: options.mask.as_ref().map(|(mask, _)| mask.hash()),
        archives,
        uncommitted: options.beside.uncommitted.map(|(what, _)| what),
    };
    manifest.write(dir)?;
    Ok(manifest)
}

impl Beside {
    async fn take(&self, dir: &Path, report: OnReport<'_>) -> Result<Vec<Archive>, DbError> {
        let (mut archives, total) = (Vec::new(), self.files.len() as u64);
        for (number, source) in self.files.iter().enumerate() {
            let what = source.display().to_string();
            report(Report::Progress(Progress { doing: "files", what, done: number as u64, total }));
            // Two folders may have one name.
            let name =
                source.file_name().map_or_else(|| "files".into(), |name| name.to_string_lossy().into_owned());
            let name = if number == 0 { name } else { format!("{}-{name}", number + 1) };
            let (source, dir) = (source.clone(), dir.to_owned());
            let packed = tokio::task::spawn_blocking(move || archive::pack(&source, &dir, &name)).await;
            archives.push(packed.map_err(std::io::Error::other)??);
        }
        for file in &self.secret_files {
            self.encrypt(file, dir, report).await?;
        }
        if let Some((_, diff)) = self.uncommitted.as_ref().filter(|(_, diff)| !diff.is_empty()) {
            files::write(&dir.join("uncommitted.diff"), diff)?;
        }
        Ok(archives)
    }

    async fn encrypt(&self, file: &Path, dir: &Path, report: OnReport<'_>) -> Result<(), DbError> {
        let folder = dir.join("config");
        fs_err::create_dir_all(&folder)?;
        let name = file.file_name().map_or_else(|| "env".into(), |name| name.to_string_lossy().into_owned());
        let mut command = Command::new("age").arg("--encrypt");
        for recipient in &self.recipients {
            command = command.args(["--recipient", recipient]);
        }
        let encrypted = folder.join(format!("{name}.age"));
        let command =
            command.arg("--output").arg(encrypted.display().to_string()).arg(file.display().to_string());
        let output = progress::run(&command, &command, report, |_, _| ()).await?;
        succeeded(&command, output)?;
        Ok(fs_err::File::open(encrypted)?.sync_all()?)
    }
}

/// An exported snapshot whose tables nobody can truncate or rewrite.
struct Snapshot {
    id: String,
    at: Timestamp,
    /// What it sees, in the server's own form.
    sees: Option<capture::Snapshot>,
    tables: Vec<Table>,
}

impl Snapshot {
    const ATTEMPTS: u32 = 5;

    /// Locks every table, then takes the snapshot and exports it; the session stays in its transaction.
    ///
    /// A TRUNCATE or a rewriting ALTER that commits between a snapshot and the lock leaves the table empty to the snapshot, and
    /// an empty copy would then prove itself. LOCK takes no snapshot, so the first query after it sees what the locks protect.
    async fn take(client: &Client, lock_wait: Duration) -> Result<Self, DbError> {
        pin(client).await?;
        for _ in 0..Self::ATTEMPTS {
            let wanted = tables::list(client).await?;
            begin(client, lock_wait).await?;
            if lock(client, &wanted).await? {
                let row = client
                    .query_one(
                        "select pg_catalog.pg_export_snapshot(), extract(epoch from now())::float8,
                                pg_catalog.pg_current_snapshot()::text",
                        &[],
                    )
                    .await
                    .doing(|| "export a snapshot".into())?;
                let locked = tables::list(client).await?;
                if locked == wanted {
                    let at = Timestamp::from_microsecond((row.get::<_, f64>(1) * 1e6) as i64);
                    return Ok(Self {
                        id: row.get(0),
                        at: at.unwrap_or_else(|_| Timestamp::now()),
                        sees: row.get::<_, &str>(2).parse().ok(),
                        tables: locked,
                    });
                }
            }
            client.batch_execute("rollback").await.doing(|| "give up a snapshot".into())?;
        }
        Err(DbError::SchemaMoves { attempts: Self::ATTEMPTS })
    }
}

async fn begin(client: &Client, lock_wait: Duration) -> Result<(), DbError> {
    client
        .batch_execute(&format!(
            "begin isolation level repeatable read read only;
             set local lock_timeout = {};
             set local idle_in_transaction_session_timeout = 0",
            lock_wait.as_millis()
        ))
        .await
        .doing(|| "begin the backup's transaction".into())
}

/// Locks the tables against rewriting; returns false when one of them is gone meanwhile.
async fn lock(client: &Client, tables: &[Table]) -> Result<bool, DbError> {
    if tables.is_empty() {
        return Ok(true);
    }
    let names: Vec<String> = tables.iter().map(Table::quoted).collect();
    let statement = format!("lock table only {} in access share mode", names.join(", only "));
    match client.batch_execute(&statement).await {
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE) => Ok(false),
        other => other
            .needing(|| "lock the tables for reading".into(), || "GRANT pg_read_all_data TO the user".into())
            .map(|()| true),
    }
}

/// Reads where the sequences stand; their values are not bound to a snapshot.
pub(crate) async fn sequences(client: &Client) -> Result<BTreeMap<String, SequenceAt>, DbError> {
    let what = || "read the sequences".to_owned();
    let rows = client
        .query(
            "select pg_catalog.format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value),
                    last_value is not null, increment_by, cycle,
                    pg_catalog.has_schema_privilege(n.oid, 'USAGE') and pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
             from pg_catalog.pg_sequences
             join pg_catalog.pg_namespace n on n.nspname = schemaname
             join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = sequencename
             where schemaname !~ '^pg_'",
            &[],
        )
        .await
        .doing(what)?;
    let at = |row: &tokio_postgres::Row| SequenceAt {
        last: row.get(1),
        called: row.get(2),
        increment: row.get(3),
        cycles: row.get(4),
    };
    let mut all: BTreeMap<String, SequenceAt> = rows.iter().map(|row| (row.get(0), at(row))).collect();
    // Where none was handed out the view does not tell what comes first, which `setval` may have changed.
    let uncalled = rows.iter().filter(|row| !row.get::<_, bool>(2) && row.get::<_, bool>(5));
    let uncalled: Vec<&str> = uncalled.map(|row| row.get(0)).collect();
    for some in uncalled.chunks(200) {
        let one = |name: &&str| format!("select {}, last_value, is_called from {name}", quote::literal(name));
        let query = some.iter().map(one).collect::<Vec<_>>().join(" union all ");
        for row in client.query(&query, &[]).await.doing(what)? {
            if let Some(at) = all.get_mut(row.get::<_, &str>(0)) {
                (at.last, at.called) = (row.get(1), row.get(2));
            }
        }
    }
    Ok(all)
}

async fn run_dump(command: &Command, dir: &Path, total: u64, report: OnReport<'_>) -> Result<(), DbError> {
    let mut done = 0;
    let on_line = |line: &str, report: &mut dyn FnMut(Report)| {
        if let Some(what) = finished_table(line) {
            done += 1;
            report(Report::Progress(Progress { doing: "dump", what: what.to_owned(), done, total }));
        }
    };
    WorkMark::dump_into(dir)?.run(command, report, on_line).await
}

/// Reads `pg_dump: finished item 3345 TABLE DATA purchases`, which pg_restore says in the same form.
pub(crate) fn finished_table(line: &str) -> Option<&str> {
    line.split_once("finished item ")?.1.split_once(" TABLE DATA ").map(|(_, name)| name)
}

/// What a dump holds, by its own bytes.
#[derive(Default)]
struct Sums {
    rows: Rows,
    large_objects: BTreeMap<u32, String>,
    files: BTreeMap<String, FileSum>,
}

/// What one file of a dump holds.
enum Holds {
    Rows(String, RowSum),
    LargeObject(u32, String),
    Other,
}

/// Masks every table file where that is wanted, and sums it, and every other file of the dump.
async fn sum_dump(
    tools: &Tools,
    dir: &Path,
    tables: &[Table],
    masks: Option<TableMasks>,
    jobs: u32,
    report: OnReport<'_>,
) -> Result<Sums, DbError> {
    let data_files = data_files(tools, dir, report).await?;
    let mut sums = Sums::default();
    let names: BTreeMap<u32, String> = tables.iter().map(|table| (table.oid, table.quoted())).collect();
    let masks = masks.map(Arc::new);
    let doing = if masks.is_some() { "mask" } else { "sum" };
    let all = files::list(dir)?;
    let total = all.len() as u64;
    let mut queue = all.into_iter();
    let mut working = tokio::task::JoinSet::new();
    loop {
        while working.len() < jobs.max(1) as usize
            && let Some(file) = queue.next()
        {
            let path = dir.join(&file);
            let oid = data_files.get(&file).copied();
            let table = oid.and_then(|oid| names.get(&oid)).cloned();
            let masks = masks.clone();
            working.spawn_blocking(move || -> Result<_, DbError> {
                if let (Some(masks), Some(oid)) = (masks, oid) {
                    // A table that nobody has looked at is not copied as it is.
                    let mask = masks.get(&oid).unwrap_or(&TableMask::Empty);
                    if !matches!(mask, TableMask::Untouched) {
                        dumpfile::rewrite(&path, |row, line| mask.row(row, line))?;
                    }
                }
                let (sum, holds) = match (table, large_object(&file)) {
                    (Some(table), _) => {
                        dumpfile::table(&path).map(|(sum, rows)| (sum, Holds::Rows(table, rows)))?
                    }
                    (None, Some(oid)) => dumpfile::large_object(&path)
                        .map(|(sum, contents)| (sum, Holds::LargeObject(oid, contents)))?,
                    (None, None) => (dumpfile::checksum(&path)?, Holds::Other),
                };
                Ok((file, sum, holds))
            });
        }
        let Some(finished) = working.join_next().await else { break };
        let (file, mut sum, holds) = finished.map_err(std::io::Error::other)??;
        let file = file.display().to_string();
        let what = match holds {
            Holds::Rows(table, rows) => {
                sum.table = Some(table.clone());
                sums.rows.insert(table.clone(), rows);
                table
            }
            Holds::LargeObject(oid, contents) => {
                sums.large_objects.insert(oid, contents);
                file.clone()
            }
            Holds::Other => file.clone(),
        };
        sums.files.insert(file, sum);
        report(Report::Progress(Progress { doing, what, done: sums.files.len() as u64, total }));
    }
    match tables.iter().find(|table| !sums.rows.contains_key(&table.quoted())) {
        Some(table) => {
            let why = format!("it has no file for the rows of {}", table.quoted());
            Err(DbError::BadDump { file: dir.join(DUMP), why })
        }
        None => Ok(sums),
    }
}

/// Reads the number of the large object that a file holds from its name, `dump/blob_16402.dat.gz`.
fn large_object(file: &Path) -> Option<u32> {
    let name = file.strip_prefix(DUMP).ok()?.to_str()?;
    name.strip_prefix("blob_")?.strip_suffix(".dat.gz")?.parse().ok()
}

/// Maps each table file of the dump to its table's oid, by the dump's own table of contents.
async fn data_files(
    tools: &Tools,
    dir: &Path,
    report: OnReport<'_>,
) -> Result<BTreeMap<PathBuf, u32>, DbError> {
    let mut found = BTreeMap::new();
    let list = list_command(tools, dir);
    let output = progress::run(&list, &list, report, |line, _| {
        if let Some((id, oid)) = listed_table(line) {
            found.insert(PathBuf::from(DUMP).join(format!("{id}.dat.gz")), oid);
        }
    })
    .await?;
    wanted_success(&list, output)?;
    Ok(found)
}

/// Builds the command that prints the dump's table of contents.
pub(crate) fn list_command(tools: &Tools, dir: &Path) -> Command {
    let command = Command::new(tools.pg_restore.display().to_string());
    in_english(command).arg("--list").arg(dump_dir(dir).display().to_string())
}

/// Reads `3345; 0 16384 TABLE DATA public purchases app`: the item's number and the table's oid.
fn listed_table(line: &str) -> Option<(u32, u32)> {
    let (id, rest) = line.split_once("; ")?;
    let mut words = rest.split(' ');
    let (_, oid) = (words.next()?, words.next()?);
    (words.next() == Some("TABLE") && words.next() == Some("DATA")).then_some(())?;
    Some((id.parse().ok()?, oid.parse().ok()?))
}

/// Returns the dump's folder within a backup's.
pub(crate) fn dump_dir(dir: &Path) -> PathBuf {
    dir.join(DUMP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_lines_are_read() {
        assert_eq!(finished_table("pg_dump: finished item 3345 TABLE DATA my table"), Some("my table"));
        assert_eq!(finished_table("pg_dump: finished item 3346 SEQUENCE SET x"), None);
        assert_eq!(listed_table("3345; 0 16384 TABLE DATA public my table app"), Some((3345, 16384)));
        assert_eq!(listed_table("3345; 1259 16384 TABLE public my table app"), None);
        assert_eq!(listed_table("; Archive created at 2026-01-01"), None);
        assert_eq!(large_object(Path::new("dump/blob_16402.dat.gz")), Some(16402));
        assert_eq!(large_object(Path::new("files/blob_16402.dat.gz")), None);
    }
}
