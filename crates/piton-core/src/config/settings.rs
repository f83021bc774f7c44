//! What a configuration means for one environment, with nothing left to look up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use piton_db::mask::Mask;
use piton_db::migrate::Tool;
use piton_db::replay::Down;
use piton_db::store::Place;
use piton_exec::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{CommandLine, Percent, RolloutStep};
use super::window::Window;
use crate::retention::Retention;

/// The settings of one environment, fully resolved and checked.
///
/// `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The app's name.
    pub app: String,
    /// The environment's name.
    pub environment: String,
    /// Whether the environment is the one that people depend on.
    pub protected: bool,
    /// The environment in which a commit must have been released before.
    pub after: Option<String>,
    /// The folder that holds `piton.toml`, absolute.
    pub root: PathBuf,
    /// How a release is built.
    pub build: Build,
    /// How the app runs.
    pub run: Run,
    /// The app's database; `None` for an app without one.
    pub database: Option<Database>,
    /// Where the proxy takes the environment's traffic.
    pub listen: SocketAddr,
    /// How traffic moves to a release.
    pub rollout: Rollout,
    /// What sends a release back.
    pub gate: Gate,
    /// What this one's database is made from at each release; `None` where it is what people rely on.
    pub data: Option<Data>,
    /// Where backups go and how long they stay.
    pub backup: Backup,
    /// When a release may start; `None` is always.
    pub window: Option<Window>,
    /// The lint rules that are not off.
    pub lint: BTreeMap<String, LintLevel>,
    /// The checks of this environment, in the order of the file.
    pub checks: Vec<Check>,
    /// The environment's file of variables, absolute, when it has one.
    pub env_file: Option<PathBuf>,
    /// All variables of the environment's `env_file`: what the app gets.
    pub vars: BTreeMap<String, Secret>,
    /// The names of secrets that may be equal in two environments.
    pub shared_secrets: BTreeSet<String>,
    pub(super) origins: Vec<OriginEntry>,
}

impl Settings {
    /// Returns where every value came from, in the order of the file's sections, for people to read.
    pub fn origins(&self) -> &[OriginEntry] {
        &self.origins
    }
}

/// How a release is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The commands, run in this order in the release folder.
    pub run: Vec<CommandLine>,
}

/// How the app runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What starts and ends it.
    pub with: RunWith,
    /// The command, run in the release folder with `PORT` set.
    pub command: CommandLine,
    /// How it says that it is ready.
    pub ready: Ready,
    /// How long it may take to end after SIGTERM, before SIGKILL.
    pub stop_within: Duration,
    /// The ports of the two slots.
    pub ports: Ports,
}

/// What starts and ends the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunWith {
    /// A process on this machine, started and ended by Piton.
    Process,
}

/// How the app says that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The path that answers 200 when the app is ready.
    pub get: String,
    /// How long a start may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub within: Duration,
}

/// The ports of the two slots, on the loopback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The blue slot's port.
    pub blue: u16,
    /// The green slot's port.
    pub green: u16,
}

/// The app's database.
#[derive(Clone, Debug)]
pub struct Database {
    /// The database's kind.
    pub engine: Engine,
    /// The URL to reach it, with user and password.
    pub url: Secret,
    /// How its structure changes; `None` when the app has no migrations folder.
    pub migrations: Option<Migrations>,
    /// What columns were before migrations that change what they mean.
    pub downs: Vec<Down>,
}

/// A database's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// PostgreSQL.
    Postgres,
}

/// How the database's structure changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrations {
    /// What applies them.
    pub tool: Tool,
    /// The folder that holds them, relative to [`Settings::root`] and so to the release folder; `.` is that itself.
    pub folder: PathBuf,
}

impl Migrations {
    /// Returns the migrations as they lie in a copy of the app.
    pub fn within(&self, app: &Path) -> piton_db::migrate::Migrations {
        piton_db::migrate::Migrations {
            tool: self.tool.clone(),
            app: app.to_owned(),
            // Joined with `.` it would not be what it is compared with.
            folder: app.join(&self.folder).components().collect(),
        }
    }
}

/// How traffic moves to a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The steps; at least one, shares ascending, the last is 100 %.
    pub steps: Vec<RolloutStep>,
    /// How long the way back stays open after the last step.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub watch: Duration,
}

/// What sends a release back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The largest share of failed responses, 1 % when the file says nothing.
    pub errors: Percent,
    /// The largest 95th percentile of the latency; `None` is no limit.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub p95: Option<Duration>,
}

/// How grave a lint rule's finding in a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LintLevel {
    /// It refuses the release.
    Error,
    /// The plan notes it.
    Warn,
    /// The rule is not looked at.
    Off,
}

/// What a database is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Another environment's rows.
    From(DataFrom),
    /// Nothing but the release's migrations and its seed.
    Fresh {
        /// The command that fills it.
        seed: Option<CommandLine>,
    },
}

impl Data {
    /// Returns the environment that the rows come from; `None` where they come from none.
    pub fn source(&self) -> Option<&DataFrom> {
        match self {
            Self::From(from) => Some(from),
            Self::Fresh { .. } => None,
        }
    }
}

/// From which environment a database is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFrom {
    /// The environment's name.
    pub environment: String,
    /// Tables of which no row is copied, as `schema.table`, or `table` in `public`.
    pub empty: BTreeSet<String>,
    /// How people's data are masked on the way; `None` where the rows are copied as they are.
    pub mask: Option<MaskFile>,
}

/// A mask, and the file that it was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskFile {
    /// The file, as written.
    pub file: PathBuf,
    /// What it says.
    pub mask: Mask,
}

/// Where backups go and how long they stay.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Which stay.
    pub retention: Retention,
    /// The folder, absolute.
    pub to: PathBuf,
    /// Folders and files that are backed up with the database, absolute.
    pub files: Vec<PathBuf>,
    /// Public keys of age for which the environment's file of variables is encrypted; it is not backed up without.
    pub recipients: Vec<String>,
    /// The store that proved backups are copied into.
    pub store: Option<Place>,
}

/// Something that has to hold before traffic moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The name, unique in the file.
    pub name: String,
    /// How long it may take: an HTTP check's latency limit, otherwise a time limit; `None` leaves it to the check.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub within: Option<Duration>,
    /// What is looked at and what must be seen.
    pub kind: CheckKind,
}

/// What a check looks at and what it must see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// A GET request to the app.
    Http(HttpCheck),
    /// A query whose first column of its only row is compared.
    Sql(SqlCheck),
    /// A program, run in the release folder, that has to end with exit code 0.
    Command(CommandLine),
    /// A table's structure.
    Table(TableCheck),
}

/// A GET request and the answer that is expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The path with its query, starting with `/`.
    pub get: String,
    /// The status that is expected.
    pub status: u16,
    /// What the answer's JSON body must hold; empty means that the body is not looked at.
    pub json: Vec<JsonExpectation>,
}

/// One value that a JSON body must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JsonExpectation {
    /// The keys from the top of the body to the value; a number is an array's index.
    pub path: Vec<String>,
    /// The value: a string, a number, a boolean, or an array of them that is compared whole.
    pub value: serde_json::Value,
}

/// A query and its expected answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlCheck {
    /// The statement, one that returns one row.
    pub sql: String,
    /// The first column of that row.
    pub expect: Scalar,
}

/// A single value of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A whole number of any width.
    Integer(i64),
    /// True or false.
    Boolean(bool),
    /// A text.
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(n) => n.fmt(f),
            Self::Boolean(b) => b.fmt(f),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

/// A table's structure; what is not named is not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCheck {
    /// The table.
    pub table: TableName,
    /// Columns that must be there.
    pub columns: Vec<ColumnCheck>,
    /// The columns of the primary key; empty means that it is not compared.
    pub primary_key: Vec<String>,
    /// Sets of columns that must be unique.
    pub unique: Vec<Vec<String>>,
    /// The foreign keys that must be there.
    pub foreign_keys: Vec<ForeignKey>,
}

/// A table's name, as the catalog spells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableName {
    /// The schema; `None` is the first one of the search path that has the table.
    pub schema: Option<String>,
    /// The name within the schema.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// A column that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnCheck {
    /// The column's name.
    pub name: String,
    /// The type as `format_type` writes it, or any spelling that PostgreSQL reads as the same type.
    pub data_type: String,
    /// Whether the column takes NULL.
    pub nullable: bool,
}

/// A foreign key that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The table that they refer to.
    pub table: TableName,
    /// The columns that they refer to, in the same order.
    pub referenced: Vec<String>,
    /// What a change of the referenced row does.
    pub on_update: ReferentialAction,
    /// What a removal of the referenced row does.
    pub on_delete: ReferentialAction,
}

/// What a foreign key does when the row that it refers to changes or goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReferentialAction {
    /// Refuses at the end of the statement; what SQL does when nothing is said.
    #[default]
    NoAction,
    /// Refuses at once.
    Restrict,
    /// Does the same to the row that refers.
    Cascade,
    /// Makes the columns that refer NULL.
    SetNull,
    /// Gives the columns that refer their default.
    SetDefault,
}

/// One value of the settings and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OriginEntry {
    /// The key as it is written in the file, from the top: `environments.staging.ports.blue`.
    pub key: String,
    /// The value as text; `•••` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Origin {
    /// Written in `piton.toml`.
    File {
        /// The line, counted from 1.
        line: usize,
    },
    /// Taken from the environment's `env_file`, by a `${NAME}` in the value.
    EnvFile {
        /// The file, as configured.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// Taken from a variable of Piton's own environment, by a `${NAME}` in the value.
    Environment {
        /// The variable's name.
        variable: String,
    },
    /// Not written anywhere: what Piton takes when nothing is said.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line } => write!(f, "piton.toml:{line}"),
            Self::EnvFile { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(f, "${variable}"),
            Self::Default => f.write_str("default"),
        }
    }
}
