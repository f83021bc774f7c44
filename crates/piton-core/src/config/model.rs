//! The file `piton.toml` as it is written: the types that the JSON Schema is made from.
//!
//! Values are kept as text here, because `${NAME}` in them is filled in for one environment at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::{Engine, LintLevel, ReferentialAction, RunWith};

/// How a web app and its database are released.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "piton.toml")]
pub(super) struct File {
    /// The app's name: small letters, digits, `-` and `_`.
    pub app: String,
    /// How a release is built.
    pub build: Option<Build>,
    /// How the app runs.
    pub run: Run,
    /// The app's database. Leave it out for an app without one.
    pub database: Option<Database>,
    /// How traffic moves in protected environments. The others switch at once, unless they have a rollout of their own.
    pub rollout: Option<Rollout>,
    /// What sends a release back.
    pub gate: Option<Gate>,
    /// How grave the findings of a lint rule in a migration are, by the rule's name, like `ban-drop-column = "error"`.
    #[serde(default)]
    pub lint: BTreeMap<String, LintLevel>,
    /// What is known about secrets.
    pub secrets: Option<Secrets>,
    /// The environments by name, like `[environments.staging]`.
    pub environments: BTreeMap<String, Environment>,
    /// What has to hold before traffic moves.
    #[serde(default)]
    pub check: Vec<Check>,
}

/// How a release is built.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Build {
    /// The commands, run in this order in the release folder, each split by shell quoting rules and run without a shell.
    #[serde(default)]
    pub run: Vec<String>,
}

/// How the app runs.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// What starts and ends the app. Default: `process`.
    pub with: Option<RunWith>,
    /// The command, like `bin/server`, run in the release folder with the port to listen on in `PORT`.
    pub command: String,
    /// How the app says that it is ready, like `{ get = "/api/health" }`.
    pub ready: Ready,
    /// How long the app may take to end after SIGTERM, before SIGKILL. Default: `10s`.
    pub stop_within: Option<String>,
}

/// How the app says that it is ready.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ready {
    /// The path that answers 200 when the app is ready.
    pub get: String,
    /// How long a start may take. Default: `60s`.
    pub within: Option<String>,
}

/// The app's database.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Database {
    /// The database's kind. Default: `postgres`.
    pub engine: Option<Engine>,
    /// The URL to reach it. Default: `${DATABASE_URL}`.
    pub url: Option<String>,
    /// What applies migrations. Default: `sql`.
    pub migrations: Option<MigrationTool>,
    /// The folder that holds the migrations. Default: where the tool's own files are.
    pub folder: Option<String>,
    /// What columns were before a migration that changes what they mean.
    #[serde(default)]
    pub down: Vec<Down>,
}

/// What a column was before a migration that changes what it means: later writes go back with the migration by it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Down {
    /// The migration, as its tool names it, like `0042_cents.sql`; it counts only where this one is pending.
    pub migration: String,
    /// The table as it was called before: `table` in `public`, or `schema.table`.
    pub table: String,
    /// The column as it was called before.
    pub column: String,
    /// An SQL expression over the row as it is afterwards, like `amount_cents / 100.0`.
    pub is: String,
}

/// What applies migrations.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum MigrationTool {
    /// A tool that Piton knows.
    Known(KnownTool),
    /// The commands of any other.
    Commands(MigrationCommands),
}

/// A migration tool that Piton knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KnownTool {
    /// Piton itself, from a folder of plain SQL files.
    Sql,
    /// Prisma.
    Prisma,
    /// Alembic.
    Alembic,
    /// Django.
    Django,
    /// golang-migrate.
    GolangMigrate,
    /// Sqitch.
    Sqitch,
}

/// The commands of a migration tool, run in the build's folder, each split by shell quoting rules and run without a shell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MigrationCommands {
    /// Applies everything that is pending, like `rake db:migrate`.
    pub apply: String,
    /// Changes nothing, and ends with 0 when nothing is pending, like `rake db:abort_if_pending_migrations`.
    pub status: String,
}

/// How traffic moves to a release.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollout {
    /// Shares of the traffic and how long each is judged, like `5% for 2h`; ascending, the last one `100%`.
    pub steps: Option<Vec<String>>,
    /// How long the way back stays open after the last step.
    pub watch: Option<String>,
}

/// What sends a release back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Gate {
    /// The largest share of failed responses. Default: `1%`.
    pub errors: Option<String>,
    /// The largest 95th percentile of the latency. Default: no limit.
    pub p95: Option<String>,
}

/// What is known about secrets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Secrets {
    /// The names of variables that may have the same value in two environments.
    #[serde(default)]
    pub shared: Vec<String>,
}

impl File {
    /// Returns an environment's file of variables, as configured.
    pub(super) fn env_path(&self, environment: &str) -> PathBuf {
        let configured = self.environments.get(environment).and_then(|found| found.env_file.as_ref());
        configured.map_or_else(|| usual_env_file(environment), PathBuf::from)
    }
}

/// Names an environment's file of variables where no other is configured.
pub(crate) fn usual_env_file(environment: &str) -> PathBuf {
    PathBuf::from(format!(".env.{environment}"))
}

/// A place where the app runs for somebody.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Environment {
    /// Whether people depend on it: releases go in steps and test keys are refused. Default: false.
    pub protected: Option<bool>,
    /// The file with the app's variables. Default: `.env.NAME`, when it exists.
    pub env_file: Option<String>,
    /// The environment in which a commit must have been released before.
    pub after: Option<String>,
    /// What the database is made from at each release.
    pub data: Option<Data>,
    /// The ports of the two slots, like `{ blue = 3001, green = 3002 }`.
    pub ports: Ports,
    /// Where the proxy takes traffic: an address with a port like `127.0.0.1:8080`, or a port.
    pub listen: String,
    /// How traffic moves, in this environment.
    pub rollout: Option<Rollout>,
    /// Where backups go and how long they stay.
    pub backup: Option<Backup>,
    /// The hours in which a release may start, like `Tue 10:00-12:00 America/New_York`. Default: always.
    pub window: Option<String>,
}

/// What a database is made from: it has exactly one of `from` and `fresh`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    /// The environment whose rows it gets.
    pub from: Option<String>,
    /// `true` for an empty database with the release's migrations.
    pub fresh: Option<bool>,
    /// The command that fills a fresh database, like `node prisma/seed.js`. Default: it stays without rows.
    pub seed: Option<String>,
    /// Tables whose rows are not copied, like `["outbox", "sessions"]`. Default: none.
    pub empty: Option<Vec<String>>,
    /// The file that says how people's data are masked on the way, like `mask.toml`. Default: none, the rows are copied as they are.
    pub mask: Option<String>,
}

/// The ports of the two slots.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    /// The blue slot's port.
    #[schemars(range(min = 1))]
    pub blue: u16,
    /// The green slot's port.
    #[schemars(range(min = 1))]
    pub green: u16,
}

/// Where backups go and how long they stay.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Backup {
    /// How long a backup is kept. Default: `14d`.
    pub keep: Option<String>,
    /// So many latest ones are kept, however old. Default: `0`.
    pub last: Option<u32>,
    /// The latest of a day is kept, of so many days that have any. Default: `0`.
    pub daily: Option<u32>,
    /// The latest of a week is kept, of so many weeks that have any. Default: `0`.
    pub weekly: Option<u32>,
    /// The folder. Default: `backups`.
    pub to: Option<String>,
    /// Folders and files that belong to the app's data, like `["uploads"]`: backed up with the database. Default: none.
    pub files: Option<Vec<String>>,
    /// Public keys of age, like `age1…`: the env_file is backed up encrypted for them. Default: it is not backed up.
    pub recipients: Option<Vec<String>>,
    /// An S3-compatible store in which every proved backup is kept, too. Default: none.
    pub store: Option<Store>,
}

/// An S3-compatible store of backups.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    /// The bucket and what all names in it begin with, like `s3://shop-backups/piton`.
    pub url: String,
    /// The server, like `https://s3.example.com`. Default: Amazon's of the region.
    pub endpoint: Option<String>,
    /// The region. Default: `us-east-1`.
    pub region: Option<String>,
    /// The access key, like `${BACKUP_KEY}`. Default: the machine's own role.
    pub access_key: Option<String>,
    /// Its secret, like `${BACKUP_SECRET}`.
    pub secret_key: Option<String>,
}

/// Something that has to hold before traffic moves; it has exactly one of `get`, `sql`, `command` and `table`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    /// The name, unique in the file.
    pub name: String,
    /// The environments that it is made in. Default: all.
    pub on: Option<Vec<String>>,
    /// How long it may take.
    pub within: Option<String>,
    /// The path of a GET request to the app.
    pub get: Option<String>,
    /// A query that returns one row; its first column is compared with `expect`.
    pub sql: Option<String>,
    /// A program that has to end with exit code 0, run in the release folder.
    pub command: Option<String>,
    /// A table whose structure is compared: `table` or `schema.table`.
    pub table: Option<String>,
    /// What must be seen: the value of a query, or status and JSON of an answer. Default for `get`: status 200.
    pub expect: Option<Expect>,
    /// The table's columns with their types, like `text not null`.
    pub columns: Option<BTreeMap<String, String>>,
    /// The columns of the table's primary key.
    pub primary_key: Option<Vec<String>>,
    /// Sets of columns that must be unique.
    pub unique: Option<Vec<Vec<String>>>,
    /// The table's foreign keys.
    pub foreign_keys: Option<Vec<ForeignKey>>,
}

/// What a check must see.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Expect {
    /// What an HTTP answer must be.
    Answer(Answer),
    /// The boolean that a query must return.
    Boolean(bool),
    /// The whole number that a query must return.
    Integer(i64),
    /// The text that a query must return.
    Text(String),
}

/// What an HTTP answer must be.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    /// The status. Default: 200.
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,
    /// What the body must hold at least, by key or by dotted path.
    pub json: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A foreign key that must be there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForeignKey {
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The table and its columns that they refer to, like `TokenPurchase(id)`.
    pub references: String,
    /// What a change of the referenced row does. Default: `no-action`.
    pub on_update: Option<ReferentialAction>,
    /// What a removal of the referenced row does. Default: `no-action`.
    pub on_delete: Option<ReferentialAction>,
}
