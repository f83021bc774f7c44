//! What is lost when an older database takes the live one's place: counted before, and again when nobody writes any more.

use std::path::PathBuf;

use piton_db::changes::Presence;
use piton_db::loss::{self, Look, Loss, TableLoss};
use piton_db::manifest::Manifest;
use piton_exec::Command;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backup::{id, say};
use super::migrate_copy::replacement;
use super::{Act, Ctx, Site, Words};
use crate::config::Settings;
use crate::fault::{Fault, OrFault};
use crate::plan::short_id;
use crate::words;

/// An older database that a person wants back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Older {
    /// A backup.
    Backup {
        /// Its folder.
        folder: PathBuf,
    },
    /// A database that was replaced, and is kept beside the one that replaced it.
    Kept {
        /// Its name.
        name: String,
    },
}

impl Older {
    /// Returns what a person types for it.
    pub(super) fn typed(&self) -> String {
        match self {
            Self::Backup { folder } => short_id(&id(folder)).to_owned(),
            Self::Kept { name } => name.clone(),
        }
    }

    /// Says what it is and how old.
    fn in_words(&self) -> String {
        let Self::Backup { folder } = self else {
            return format!("{} was kept when it was replaced", self.typed());
        };
        let backup = format!("the backup {}", self.typed());
        let Ok(manifest) = Manifest::read(folder) else { return backup };
        let taken = words::time(manifest.snapshot_at);
        match manifest.made_for.serving.as_deref() {
            Some(serving) => {
                format!("{backup} was taken {taken}, when {} served", serving.get(..7).unwrap_or(serving))
            }
            None => format!("{backup} was taken {taken}, before anything served"),
        }
    }
}

impl std::fmt::Display for Older {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backup { .. } => write!(f, "the backup {}", self.typed()),
            Self::Kept { name } => write!(f, "the one kept as {name}"),
        }
    }
}

/// Counts what would be lost if an older database took the live one's place, and refuses more than is accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CountLoss {
    /// What is wanted back.
    pub to: Older,
    /// The database with its contents.
    pub older: String,
    /// How much may be lost.
    pub accept: u64,
}

/// What is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// In what.
    #[serde(flatten)]
    pub loss: Loss,
    /// How much was accepted.
    pub accepted: u64,
    /// Where the rows are, once they are written down.
    pub file: Option<PathBuf>,
}

impl Lost {
    pub(super) fn counted(loss: Loss, accepted: u64) -> Self {
        Self { loss, accepted, file: None }
    }

    /// Leaves out the file, which is gone.
    pub(super) fn without_file(self) -> Self {
        Self { file: None, ..self }
    }

    /// Says how much is lost.
    pub(super) fn words(&self) -> String {
        match self.loss.total() {
            0 => "nothing was written since".into(),
            writes => format!("{} since: lost, as accepted", words::counted(writes, "write")),
        }
    }

    /// Refuses what is more than is accepted.
    pub(super) fn is_accepted(&self, ctx: &Ctx<'_, '_>, to: &Older) -> Result<(), Fault> {
        let writes = self.loss.total();
        if writes <= self.accepted {
            return Ok(());
        }
        let accepted = match self.accepted {
            0 => String::new(),
            accepted => format!(", and {} accepted", words::count(accepted)),
        };
        let since = match to {
            Older::Backup { .. } => "since the backup",
            // Nobody has kept what took its place as it was then.
            Older::Kept { .. } => "since it was replaced, or other than in it already then",
        };
        let mut fault =
            Fault::refused(format!("{} would be lost{accepted}", words::counted(writes, "write")));
        fault.why = lines(&self.loss);
        fault.why.insert(0, format!("written {since}:"));
        let environment = &ctx.plan.environment;
        let (to, older) = (to.typed(), to.in_words());
        let command = Command::new("piton").args(["rollback", environment, "--to", &to]);
        let command = command.args(["--accept-loss", &writes.to_string()]);
        Err(fault.because(older).hint(format!(
            "{command} writes these rows into a file first; a larger number leaves room for what is written meanwhile"
        )))
    }
}

/// How many tables, and how many objects, are told one by one.
const TOLD: usize = 20;

/// Tells what is lost, table by table.
pub(super) fn lines(loss: &Loss) -> Vec<String> {
    let table = |table: &TableLoss| {
        if table.presence == Presence::Golden {
            return format!(
                "  {}: dropped, comes back with {}",
                table.table,
                words::counted(table.deleted, "row")
            );
        }
        let counts = [(table.inserted, "inserted"), (table.changed, "changed"), (table.deleted, "deleted")];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> =
            told.map(|(count, what)| format!("{} {what}", words::count(*count))).collect();
        format!("  {}: {}", table.table, told.join(", "))
    };
    let mut lines: Vec<String> = loss.tables.iter().take(TOLD).map(table).collect();
    if let Some(more @ 1..) = loss.tables.len().checked_sub(TOLD) {
        let rest = loss.tables[TOLD..].iter().map(|table| table.inserted + table.changed + table.deleted);
        lines.push(format!(
            "  {} in {}",
            words::counted(rest.sum(), "row"),
            words::counted(more as u64, "more table")
        ));
    }
    if loss.large_objects > 0 {
        lines.push(format!("  {} written", words::counted(loss.large_objects, "large object")));
    }
    lines.extend(loss.objects.iter().take(TOLD).map(|object| format!("  {object}")));
    if let Some(more @ 1..) = loss.objects.len().checked_sub(TOLD) {
        lines.push(format!("  and {}", words::counted(more as u64, "more object")));
    }
    lines
}

/// Looks what would be lost; with `rows_in` the rows are kept in that folder.
pub(super) async fn look(
    ctx: &Ctx<'_, '_>,
    older: &str,
    rows_in: Option<&std::path::Path>,
    before: Option<&Look>,
) -> Result<Look, Fault> {
    let live = super::database_of(ctx.settings())?;
    let older = live.with_name(older);
    let record = record_of(ctx.settings());
    loss::look(&older, &live, &record, rows_in, before, &mut |progress| say(ctx, &progress))
        .await
        .or_fault(|| "what would be lost cannot be counted".into())
}

fn record_of(settings: &Settings) -> piton_db::migrate::RecordTables {
    let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
    migrations.map(|migrations| migrations.tool.record()).unwrap_or_default()
}

impl Act for CountLoss {
    fn words(&self, site: &Site<'_>) -> Words {
        let environment = &site.settings.environment;
        let accepted = match self.accept {
            0 => "any".into(),
            accept => format!("more than {}", words::count(accept)),
        };
        Words::new(
            format!(
                "count the writes that {environment}'s database would lose by going back to {}, refuse {accepted}",
                self.to
            ),
            "nothing to undo",
        )
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let look = look(ctx, &replacement(ctx, &self.older), None, None).await?;
        let lost = Lost::counted(look.loss, self.accept);
        // What is refused is told as well.
        ctx.note(&lost)?;
        lost.is_accepted(ctx, &self.to)?;
        Ok(json!(lost))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Ok(Value::Null)
    }
}
