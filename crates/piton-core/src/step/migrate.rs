use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use piton_db::changes::{self, Presence, TableChange};
use piton_db::fingerprint::Structure;
use piton_db::identity::Purpose;
use piton_db::migrate::MigrationError;
use piton_db::migrate::sql::{MigrateOptions, Recorded, SqlFolder};
use piton_db::swap::{self, SwapState};
use piton_db::{Database, DbError, facts, made, quote};
use piton_proxy::control::{Client, ControlError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::proxy::no_answer;
use super::rehearse::Rehearsed;
use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};
use crate::http;
use crate::plan::Phase;

/// How long requests may wait at the proxy while databases change places.
const HOLD: Duration = Duration::from_secs(20);

/// Applies the pending migrations to the environment's own database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Migrate {
    /// The folder of migrations.
    pub folder: PathBuf,
    /// The golden copy, which is the way back.
    pub golden: String,
    /// What the replaced database is called after a rewind.
    pub replaced: String,
    /// False where another step puts the whole database back.
    pub undo: bool,
}

/// Replaces staging's database by a copy of the golden copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloneData {
    /// The golden copy.
    pub golden: String,
    /// The next database's name before it takes staging's.
    pub fresh: String,
    /// What the replaced database is called.
    pub replaced: String,
}

/// What the migration found before it changed anything.
#[derive(Serialize, Deserialize)]
struct Before {
    applied: Vec<Recorded>,
    /// Whether the database had a record of migrations at all.
    recorded: bool,
}

/// Writes a call of `psql` that runs each pending file of a folder in a transaction of its own.
pub(super) fn each_file(folder: &Path) -> [String; 5] {
    let file = folder.join("EACH.sql").display().to_string();
    ["-v".into(), "ON_ERROR_STOP=1".into(), "-1".into(), "-f".into(), file]
}

fn unreadable() -> String {
    "the record of migrations cannot be read".into()
}

impl Migrate {
    /// What was rehearsed on the golden copy says nothing about a database of another structure.
    async fn still_as_rehearsed(&self, database: &Database) -> Result<(), Fault> {
        let unreadable = || "the structure cannot be read".to_owned();
        let golden = Structure::of(&database.with_name(&self.golden)).await.or_fault(unreadable)?;
        let changes = golden.changes_to(&Structure::of(database).await.or_fault(unreadable)?);
        if changes.is_empty() {
            return Ok(());
        }
        let mut fault = Fault::release("the database's structure was changed after the backup");
        fault.why = changes.iter().take(5).map(ToString::to_string).collect();
        Err(fault.because("the migration was not begun").hint("the next release takes a new backup"))
    }

    /// Puts the database back by the golden copy: when a person asks for it, or when not a row was written since.
    ///
    /// Otherwise the migration stays, and the release before runs on the new structure: no write is lost without a word.
    async fn go_back(&self, ctx: &Ctx<'_, '_>, live: &Database) -> Result<Value, Fault> {
        let golden = live.with_name(&self.golden);
        if !facts::exists(&golden).await.or_fault(unreadable)? {
            return self.without_golden(ctx);
        }
        let began = Instant::now();
        let written = written_since(&golden, live).await?;
        let too_long_to_hold = began.elapsed() > HOLD / 4;
        if !ctx.database && (too_long_to_hold || may_have_writes(ctx, &written)) {
            return Ok(json!({ "kept": true, "written": written }));
        }
        let hold = Hold::begin(ctx).await?;
        let swapped = async {
            // What came in between the first look and the hold counts, too, unless a person has let it go; and whoever writes past
            // the proxy waits from the second look until the swap.
            let mut frozen = None;
            if !ctx.database {
                frozen = changes::freeze(live, HOLD / 4)
                    .await
                    .or_fault(|| "the database cannot be kept still".into())?;
                let written = written_since(&golden, live).await?;
                if frozen.is_none() || may_have_writes(ctx, &written) {
                    return Ok(json!({ "kept": true, "written": written }));
                }
            }
            if let Some(frozen) = &frozen {
                frozen.check().await.or_fault(|| "the database did not keep still".into())?;
            }
            swap::swap(live, &self.golden, &self.replaced)
                .await
                .or_fault(|| "the databases cannot change places".into())?;
            Hold::let_recover(ctx).await;
            Ok(json!({ "rewound": true, "written": written }))
        };
        let swapped = swapped.await;
        hold.end().await?;
        let mut outcome = swapped?;
        if outcome.get("rewound").is_some() {
            outcome["replaced"] = json!(self.put_away(ctx, live).await?);
        }
        Ok(outcome)
    }

    /// Drops the replaced database when it holds nothing but the migration; returns its name when it is kept.
    ///
    /// Whoever writes past the proxy may have written between the last look and the swap, or have changed the structure.
    async fn put_away(&self, ctx: &Ctx<'_, '_>, live: &Database) -> Result<Option<&str>, Fault> {
        let replaced = live.with_name(&self.replaced);
        let structure = Structure::of(&replaced).await.or_fault(|| "the structure cannot be read".into())?;
        let rehearsed = ctx.outcome::<Rehearsed>("rehearse");
        if ctx.database
            || rehearsed.is_none_or(|rehearsed| rehearsed.structure != structure.hash())
            || may_have_writes(ctx, &written_since(live, &replaced).await?)
        {
            return Ok(Some(&self.replaced));
        }
        made::drop_replaced(&replaced, &super::label(ctx, Purpose::Replaced))
            .await
            .or_fault(|| format!("{} cannot be dropped", self.replaced))?;
        Ok(None)
    }

    /// The way back was dropped by somebody else: the migration stays, and a person who asked for more is told.
    fn without_golden(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        if !ctx.database {
            return Ok(json!({ "kept": true }));
        }
        Err(Fault::surroundings("the database cannot go back")
            .because(format!("the golden copy {} is gone; Piton did not drop it", self.golden))
            .hint(format!(
                "piton abort {} undoes the rest and leaves the database as it is",
                ctx.plan.environment
            )))
    }
}

/// Lists the tables whose rows differ from the golden copy's.
pub(super) async fn written_since(golden: &Database, live: &Database) -> Result<Vec<TableChange>, Fault> {
    changes::since(golden, live, &mut |_| {})
        .await
        .or_fault(|| "what was written since the backup cannot be counted".into())
}

/// Tells whether going back could lose a write.
///
/// A release that never had traffic cannot have made one in what its migration added: rows of a new table are the migration's
/// own then, and the values of a new column, too.
fn may_have_writes(ctx: &Ctx<'_, '_>, written: &[TableChange]) -> bool {
    let had_traffic = ctx.began(Phase::Shift);
    written.iter().any(|table| {
        let is_new = table.presence == Presence::Live;
        let rows = table.only_in_live > 0 || table.only_in_golden > 0;
        if had_traffic { rows || !table.new_columns.is_empty() } else { rows && !is_new }
    })
}

impl Act for Migrate {
    fn words(&self, site: &Site<'_>) -> Words {
        let undo = if self.undo {
            "the golden copy takes its place, if no row was written since or a person asks; else it stays"
        } else {
            "the database before takes its place"
        };
        Words::new("the pending migrations, waiting at most 2s for a lock", undo)
            .with(site.psql(None, each_file(&self.folder)))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
        if ctx.noted().is_none() {
            self.still_as_rehearsed(&database).await?;
            let recorded = SqlFolder::is_recorded(&database).await.or_fault(unreadable)?;
            let applied = SqlFolder::recorded(&database).await.or_fault(unreadable)?;
            ctx.note(&Before { applied, recorded })?;
        }
        let applied = SqlFolder::new(&self.folder)
            .apply(&database, MigrateOptions::default(), &mut |progress| ctx.say(&progress.what))
            .await
            .map_err(|error| fault_of(&error, &ctx.plan.environment))?;
        let structure = Structure::of(&database).await.or_fault(|| "the structure cannot be read".into())?;
        let rehearsed = ctx.outcome::<Rehearsed>("rehearse");
        if rehearsed.is_some_and(|rehearsed| rehearsed.structure != structure.hash()) {
            return Err(Fault::release("the database's structure is not the rehearsed one")
                .because("somebody changed it between the backup and the migration"));
        }
        let ms: u64 = applied.migrations.iter().map(|migration| migration.millis).sum();
        let names: Vec<&str> = applied.migrations.iter().map(|migration| migration.name.as_str()).collect();
        Ok(json!({ "migrations": names, "ms": ms }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let before = ctx.noted().and_then(|note| serde_json::from_value::<Before>(note).ok());
        let (true, Some(before)) = (self.undo, before) else { return Ok(Value::Null) };
        let live = super::database_of(ctx.settings())?;
        if swapped(&live, &self.golden, &self.replaced).await? {
            return Ok(json!({ "rewound": true, "replaced": self.put_away(ctx, &live).await? }));
        }
        SqlFolder::forget_failed(&live, before.recorded)
            .await
            .or_fault(|| "the failed migration's record cannot be removed".into())?;
        let applied = SqlFolder::recorded(&live).await.or_fault(unreadable)?;
        if applied == before.applied && !ctx.database {
            return Ok(json!({ "nothing_applied": true }));
        }
        self.go_back(ctx, &live).await
    }
}

/// A migration that its database refuses is the release's fault; a database that is away or busy is not.
pub(super) fn fault_of(error: &DbError, environment: &str) -> Fault {
    match error {
        DbError::Migration(MigrationError::HalfApplied { name, .. }) => {
            Fault::surroundings("a migration is half applied").caused_by(error).hint(format!(
                "piton migration {environment} {name} --applied (or --not-applied), then piton resume {environment}"
            ))
        }
        DbError::Migration(MigrationError::Locked { .. } | MigrationError::Busy { .. }) => {
            Fault::surroundings("the migration could not get its locks")
                .caused_by(error)
                .hint("end what holds them, then piton resume")
        }
        DbError::Migration(MigrationError::Failed { said, .. }) if !says_away(said) => {
            Fault::release("the migration failed").caused_by(error)
        }
        DbError::Migration(MigrationError::Failed { .. }) | DbError::Connect { .. } | DbError::Sql { .. } => {
            Fault::surroundings("the database went away during the migration")
                .caused_by(error)
                .hint("start the database, then piton resume")
        }
        _ => Fault::release("the migration failed").caused_by(error),
    }
}

/// Tells whether a statement failed because its session was ended: class 57P, or a closed connection.
fn says_away(said: &str) -> bool {
    said.contains("(57P0") || said.contains("connection closed") || said.contains("connection reset")
}

impl Act for CloneData {
    fn words(&self, site: &Site<'_>) -> Words {
        let does = format!("{}'s database is made anew from the golden copy", site.settings.environment);
        let words = Words::new(does, "the database before takes its place again");
        let Ok(live) = super::database_of(site.settings) else { return words };
        let rename = |from: &str, to: &str| {
            format!("ALTER DATABASE {} RENAME TO {}", quote::ident(from), quote::ident(to))
        };
        let away = rename(&live.dbname, &self.replaced);
        let in_place = rename(&self.fresh, &live.dbname);
        words
            .with(site.client("createdb", None, ["--template", &self.golden, &self.fresh]))
            .with(site.psql(Some("postgres"), ["-1", "-c", &away, "-c", &in_place]))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let live = super::database_of(ctx.settings())?;
        let unreachable = || format!("{live} cannot be reached");
        if ctx.noted().is_none() {
            let existed = facts::exists(&live).await.or_fault(unreachable)?;
            ctx.note(&json!({ "existed": existed }))?;
        }
        let label = super::label(ctx, Purpose::Clone);
        let cannot = || "staging's database cannot be made".to_owned();
        if !self.existed(ctx) {
            made::clone_from(&live, &self.golden, &label).await.or_fault(cannot)?;
            return Ok(json!({ "new": true }));
        }
        if swapped(&live, &self.fresh, &self.replaced).await? {
            return Ok(json!({ "new": false }));
        }
        made::clone_from(&live.with_name(&self.fresh), &self.golden, &label).await.or_fault(cannot)?;
        let hold = Hold::begin(ctx).await?;
        let swapped = swap::swap(&live, &self.fresh, &self.replaced).await.or_fault(cannot);
        Hold::let_recover(ctx).await;
        hold.end().await?;
        swapped?;
        Ok(json!({ "new": false }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        if ctx.noted().is_none() {
            return Ok(Value::Null);
        }
        let live = super::database_of(ctx.settings())?;
        if !self.existed(ctx) {
            super::drop_made(&live, &live.dbname).await?;
            return Ok(Value::Null);
        }
        let cannot = || "the database before cannot be put back".to_owned();
        let hold = Hold::begin(ctx).await?;
        let put_back = async {
            if swapped(&live, &self.fresh, &self.replaced).await? {
                swap::swap(&live, &self.replaced, &self.fresh).await.or_fault(cannot)?;
            }
            super::drop_made(&live, &self.fresh).await
        };
        let put_back = put_back.await;
        hold.end().await?;
        put_back.map(|_| Value::Null)
    }
}

/// Tells whether `replacement` has taken the place of `live`.
async fn swapped(live: &Database, replacement: &str, replaced: &str) -> Result<bool, Fault> {
    let server = || format!("{} cannot be asked", live.server());
    // Before the replacement is made there is nothing that could have been swapped.
    if !facts::exists(&live.with_name(replaced)).await.or_fault(server)? {
        return Ok(false);
    }
    let state = swap::observe(live, replacement, replaced).await;
    Ok(state.or_fault(|| "the databases are neither as before nor swapped".into())? == SwapState::Done)
}

impl CloneData {
    fn existed(&self, ctx: &Ctx<'_, '_>) -> bool {
        let noted = ctx.noted().as_ref().and_then(|note| note.get("existed")).and_then(Value::as_bool);
        noted.unwrap_or(true)
    }
}

/// Requests wait at the proxy, and none is under way, until this ends; the proxy ends it by itself when this process dies.
struct Hold(Option<Client>);

impl Hold {
    /// Begins to hold; without a proxy there is nobody to hold.
    async fn begin(ctx: &Ctx<'_, '_>) -> Result<Self, Fault> {
        let dir = ctx.world.dirs.proxy(&ctx.plan.environment);
        let mut client = match Client::connect(&dir).await {
            Ok(client) => client,
            Err(ControlError::NotRunning { .. }) => return Ok(Self(None)),
            Err(error) => return Err(Fault::surroundings(no_answer()).caused_by(&error)),
        };
        client.hold(HOLD).await.or_fault(no_answer)?;
        for slot in piton_proxy::Slot::BOTH {
            client.drain(slot, HOLD / 4).await.or_fault(no_answer)?;
        }
        Ok(Self(Some(client)))
    }

    /// Waits, while requests still wait, until the release that serves has found its database again.
    ///
    /// Its sessions ended with the swap; a pool mends itself at its next use, and that shall not be somebody's request.
    async fn let_recover(ctx: &Ctx<'_, '_>) {
        let Some(live) = &ctx.plan.live else { return };
        let began = Instant::now();
        while began.elapsed() < HOLD / 4 {
            let answer = http::get(live.start.port, &live.start.ready.get, Duration::from_secs(1)).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) -> Result<(), Fault> {
        match self.0 {
            Some(mut client) => client.release().await.map(drop).or_fault(no_answer),
            None => Ok(()),
        }
    }
}
