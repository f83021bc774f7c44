//! Which tool an app's migrations are written for, and what every tool can be asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use piton_exec::Command;
use serde::{Deserialize, Serialize};

use super::adapter::Adapter;
use super::alembic::Alembic;
use super::back;
use super::commands::Commands;
use super::django::Django;
use super::foreign::{self, Around};
use super::golang::GolangMigrate;
use super::prisma::Prisma;
use super::sqitch::Sqitch;
use super::sql::{SCHEMA, SqlFolder, TABLE};
use super::stood::structure;
use super::{Applied, MigrateOptions, Migration, Recorded, script};
use crate::fingerprint::Structure;
use crate::progress::{OnReport, Report, millis};
use crate::{Database, DbError};

/// The tool that applies migrations; data, as plans store it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// Piton itself, from a folder of plain SQL files.
    #[default]
    Sql,
    /// `prisma migrate deploy`.
    Prisma,
    /// `alembic upgrade`.
    Alembic,
    /// `manage.py migrate`.
    Django,
    /// golang-migrate's `migrate up`.
    GolangMigrate,
    /// `sqitch deploy`.
    Sqitch,
    /// Any other, by two commands: program and arguments.
    Commands {
        /// Applies everything that is pending.
        apply: Vec<String>,
        /// Changes nothing, and ends with 0 when nothing is pending.
        status: Vec<String>,
    },
}

impl Tool {
    pub(super) fn adapter(&self) -> Option<Box<dyn Adapter>> {
        Some(match self {
            Self::Sql => return None,
            Self::Prisma => Box::new(Prisma),
            Self::Alembic => Box::new(Alembic),
            Self::Django => Box::new(Django),
            Self::GolangMigrate => Box::new(GolangMigrate),
            Self::Sqitch => Box::new(Sqitch),
            Self::Commands { apply, status } => {
                Box::new(Commands { apply: apply.clone(), status: status.clone() })
            }
        })
    }

    /// Tells whether a file of the folder, by its path within it, says something about the migrations.
    pub fn reads(&self, path: &str) -> bool {
        match self.adapter() {
            Some(adapter) => adapter.reads(path),
            None => !path.contains('/') && SqlFolder::is_migration(path),
        }
    }

    /// Returns the tables in which the tool notes what it has applied.
    pub fn record(&self) -> RecordTables {
        self.adapter().map_or_else(RecordTables::default, |adapter| RecordTables::of(&*adapter))
    }

    /// Tells whether every migration has its file in the folder; those of packages have none there.
    pub fn has_all_files(&self) -> bool {
        self.adapter().is_none_or(|adapter| foreign::has_all_files(&*adapter))
    }

    /// Tells whether the migrations are SQL, which can be read before it is run.
    pub fn is_sql(&self) -> bool {
        !matches!(self, Self::Alembic | Self::Django | Self::Commands { .. })
    }

    /// Returns the program that has to be on the machine; `None` for Piton itself.
    pub fn program(&self) -> Option<String> {
        let adapter = self.adapter()?;
        Some(adapter.apply(Path::new(""), Path::new(""), "").program)
    }
}

/// The tables in which a tool notes what it has applied: no data of the app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordTables {
    /// All tables of this schema.
    schema: Option<String>,
    /// The table of this name, in whichever schema, and its sequence.
    table: Option<String>,
}

impl RecordTables {
    pub(super) fn of(adapter: &dyn Adapter) -> Self {
        let (schema, table) = adapter.record();
        Self { schema: schema.map(str::to_owned), table: table.map(str::to_owned) }
    }

    /// Tells whether an object of a structure is such a table, a part of one, or the schema of all of them.
    pub(super) fn hold(&self, object: &str, definition: &str) -> bool {
        if self.schema.as_ref().is_some_and(|schema| object.ends_with(&format!("schema {schema}"))) {
            return true;
        }
        // An index has a name of its own; its definition names the table.
        let named = match object.starts_with("index ") {
            true => definition.split_once(" ON ").map_or("", |(_, rest)| rest.trim_start_matches("ONLY ")),
            false => object,
        };
        let Some((schema, rest)) = named.split_once('.') else { return false };
        let schema = schema.rsplit(' ').next().unwrap_or(schema);
        self.covers(schema, rest.split(['.', ' ', '(']).next().unwrap_or(rest))
    }

    /// Tells whether a table or sequence is such a one; Piton's own always is.
    pub(crate) fn covers(&self, schema: &str, name: &str) -> bool {
        (schema == SCHEMA && name == TABLE)
            || self.schema.as_deref() == Some(schema)
            || self.table.as_deref().is_some_and(|table| name == table || name == format!("{table}_id_seq"))
    }
}

/// An app's migrations: the tool and where their files lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrations {
    /// The tool.
    #[serde(default)]
    pub tool: Tool,
    /// The app's folder, in which the tool runs.
    #[serde(default)]
    pub app: PathBuf,
    /// The folder of migrations.
    pub folder: PathBuf,
}

impl Migrations {
    /// Returns what a person would type to apply them, but for the database; `None` for plain SQL files.
    pub fn by_hand(&self) -> Option<Command> {
        let adapter = self.tool.adapter()?;
        let command = adapter.apply(&self.app, &self.folder, "EACH");
        Some(if command.cwd.is_none() { command.cwd(&self.app) } else { command })
    }

    /// Reads a migration's SQL and the file's path within the folder; `None` where it is not SQL, or not there.
    pub fn script(&self, name: &str) -> Option<(String, String)> {
        let file = match &self.tool {
            Tool::Sql => name.to_owned(),
            Tool::Prisma => format!("{name}/migration.sql"),
            Tool::GolangMigrate => format!("{name}.up.sql"),
            Tool::Sqitch => format!("deploy/{name}.sql"),
            Tool::Alembic | Tool::Django | Tool::Commands { .. } => return None,
        };
        let text = fs_err::read_to_string(self.folder.join(&file)).ok()?;
        Some((file, text))
    }

    /// Tells whether a migration's SQL builds an index concurrently; false for what is no SQL.
    pub fn builds_concurrently(&self, name: &str) -> bool {
        let scripts = name.split(foreign::AND).filter_map(|name| self.script(name));
        let statements = scripts.filter_map(|(_, text)| script::split(&text).ok()).flatten();
        statements.into_iter().any(|statement| statement.builds_concurrently())
    }

    /// Lists the migrations of the folder and of the database's record, in the order in which they are applied.
    ///
    /// # Errors
    /// When folder or record cannot be read; [`MigrationError::Unreadable`](super::MigrationError::Unreadable) names the file.
    pub async fn status(&self, database: &Database) -> Result<Vec<Migration>, DbError> {
        match self.tool.adapter() {
            None => SqlFolder::new(&self.folder).status(database).await,
            Some(adapter) => foreign::status(&*adapter, &self.folder, database).await,
        }
    }

    /// Wants nothing in the record to stand in the way of the next run; changes nothing.
    ///
    /// # Errors
    /// [`MigrationError`](super::MigrationError) for what needs a person first; others when folder or database cannot be read.
    pub async fn may_begin(&self, database: &Database) -> Result<(), DbError> {
        match self.tool.adapter() {
            None => SqlFolder::new(&self.folder).may_begin(database).await,
            Some(adapter) => foreign::may_begin(&*adapter, &self.folder, database).await,
        }
    }

    /// Applies what is pending, in its order.
    ///
    /// A tool of its own runs once for each migration where it can, so that no locks pile up. With [`Around::unproved`] it is
    /// proved before its first run that it uses the database that it is given. Before each run `may_begin` is asked with the name
    /// of what is applied, as it is told to `report`; with none before commands, which have no names for it.
    ///
    /// # Errors
    /// [`MigrationError`](super::MigrationError), in [`DbError::Migration`], and what `may_begin` says; what had been applied
    /// before the failing one stays.
    pub async fn apply(
        &self,
        database: &Database,
        around: &Around,
        options: MigrateOptions,
        report: OnReport<'_>,
        mut may_begin: impl AsyncFnMut(Option<&str>) -> Result<(), DbError>,
    ) -> Result<Applied, DbError> {
        match self.tool.adapter() {
            None => {
                let mut progress = |progress| report(Report::Progress(progress));
                let folder = SqlFolder::new(&self.folder);
                folder
                    .apply_when(database, options, &mut progress, async |name| may_begin(Some(name)).await)
                    .await
            }
            Some(adapter) => {
                foreign::apply(&*adapter, self, database, around, options, report, &mut may_begin).await
            }
        }
    }

    /// Wants each of the migrations that the database has to have a down migration that can be tried; changes nothing.
    ///
    /// # Errors
    /// [`MigrationError::NoWayBack`](super::MigrationError::NoWayBack) for the last one that has none.
    pub async fn may_take_back(&self, database: &Database, names: &[String]) -> Result<(), DbError> {
        match self.tool.adapter() {
            None => SqlFolder::new(&self.folder).may_take_back(database, names).await,
            Some(adapter) => back::may_take_back(&*adapter, self, database, names).await,
        }
    }

    /// Takes migrations back by the tool's own down migrations, one at a time, the last of the names first; returns how long that
    /// took, in milliseconds.
    ///
    /// One that the record has not got any more is left out, so that a killed call can be made again. Each runs in one transaction:
    /// what fails leaves it applied.
    ///
    /// # Errors
    /// [`MigrationError::NoWayBack`](super::MigrationError::NoWayBack) before the first one, where one has none that could be tried;
    /// [`MigrationError::Failed`](super::MigrationError::Failed), after which those before it are taken back.
    pub async fn take_back(
        &self,
        database: &Database,
        around: &Around,
        names: &[String],
        options: MigrateOptions,
        report: OnReport<'_>,
    ) -> Result<u64, DbError> {
        let took = match self.tool.adapter() {
            None => {
                let mut progress = |progress| report(Report::Progress(progress));
                SqlFolder::new(&self.folder).take_back(database, names, options, &mut progress).await?
            }
            Some(adapter) => {
                back::take_back(&*adapter, self, database, around, names, options, report).await?
            }
        };
        Ok(millis(took))
    }

    /// Returns the structure of a database without what the tool's own record is made of.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn structure(&self, database: &Database) -> Result<Structure, DbError> {
        structure(&self.tool.record(), database).await
    }

    /// Lists the migrations of which the database has all or a part.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn recorded(&self, database: &Database) -> Result<Vec<Recorded>, DbError> {
        match self.tool.adapter() {
            None => SqlFolder::recorded(database).await,
            Some(adapter) => foreign::recorded(&*adapter, &self.folder, database).await,
        }
    }

    /// Tells whether the database has Piton's own record of migrations.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn is_recorded(&self, database: &Database) -> Result<bool, DbError> {
        SqlFolder::is_recorded(database).await
    }

    /// Tells whether a failed run has left the database as its golden copy is; takes what failed and left nothing out of the record.
    ///
    /// `before` is what was recorded before the run. With `keep` false, Piton's own record goes when it is empty.
    ///
    /// # Errors
    /// When the record cannot be changed; [`DbError::InUse`] when others stand in the way.
    pub async fn left_nothing(
        &self,
        live: &Database,
        golden: &Database,
        before: &[Recorded],
        keep: bool,
    ) -> Result<bool, DbError> {
        match self.tool.adapter() {
            None => {
                SqlFolder::forget_failed(live, keep).await?;
                if SqlFolder::recorded(live).await? != before {
                    return Ok(false);
                }
                // What runs in one transaction with its record is gone with it.
                let record = RecordTables::default();
                Ok(SqlFolder::new(&self.folder).next_is_one_transaction(live).await
                    || structure(&record, live).await? == structure(&record, golden).await?)
            }
            Some(adapter) => foreign::left_nothing(&*adapter, &self.folder, live, golden, before).await,
        }
    }

    /// Names the migration that was begun last, if it may have left a part of itself without a trace in the record.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn unnoted(&self, database: &Database, begun: &str) -> Result<Option<String>, DbError> {
        match self.tool.adapter() {
            None => Ok(None),
            Some(adapter) => foreign::unnoted(&*adapter, &self.folder, database, begun).await,
        }
    }

    /// Wants a migration to be one that a person may record as applied or as not applied; changes nothing.
    ///
    /// # Errors
    /// [`MigrationError`](super::MigrationError) for any other.
    pub async fn may_resolve(&self, database: &Database, name: &str, applied: bool) -> Result<(), DbError> {
        match self.tool.adapter() {
            None => {
                let text = SqlFolder::new(&self.folder).text(name)?;
                SqlFolder::may_resolve(database, name, text.as_deref()).await
            }
            Some(adapter) => {
                foreign::statements(&*adapter, &self.folder, database, name, applied).await.map(drop)
            }
        }
    }

    /// Records a migration as applied, or as not applied, after a person has looked at the database.
    ///
    /// # Errors
    /// As [`Migrations::may_resolve`], or when the record cannot be changed.
    pub async fn resolve(&self, database: &Database, name: &str, applied: bool) -> Result<(), DbError> {
        match self.tool.adapter() {
            None => {
                let text = SqlFolder::new(&self.folder).text(name)?;
                SqlFolder::resolve(database, name, text.as_deref(), applied).await
            }
            Some(adapter) => foreign::resolve(&*adapter, &self.folder, database, name, applied).await,
        }
    }
}

/// The texts of a folder's files, by their paths within it.
pub(super) type Files = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_its_own_objects_by_their_exact_names() {
        let on = |table: &str| format!("CREATE UNIQUE INDEX i ON public.{table} USING btree (id)");
        for (tool, own, others) in [
            (
                Tool::Alembic,
                vec![
                    "table public.alembic_version",
                    "column app.alembic_version.version_num",
                    "constraint public.alembic_version.alembic_version_pkc",
                    "owner of public.alembic_version",
                ],
                vec![
                    "table public.alembic_version_x",
                    "column public.t.alembic_version",
                    "schema alembic_version",
                ],
            ),
            (
                Tool::Django,
                vec!["sequence public.django_migrations_id_seq"],
                vec!["table public.old_django_migrations"],
            ),
            (
                Tool::Sqitch,
                vec![
                    "schema sqitch",
                    "grants on schema sqitch",
                    "table sqitch.changes",
                    "comment on table sqitch.tags",
                ],
                vec![
                    "table public.sqitch_log",
                    "table public.sqitch",
                    "schema sqitch2",
                    "function public.f(sqitch.x)",
                ],
            ),
        ] {
            let record = tool.record();
            assert!(own.iter().all(|object| record.hold(object, "")), "{tool:?}");
            assert!(!others.iter().any(|object| record.hold(object, "")), "{tool:?}");
        }
        let record = Tool::Alembic.record();
        assert!(record.hold("index public.alembic_version_pkc", &on("alembic_version")));
        assert!(!record.hold("index public.alembic_version", &on("versions")));
    }
}
