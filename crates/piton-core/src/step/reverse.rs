//! A migration taken back in place by its own down migration, where the rehearsal has shown that to be a way back.

use std::path::PathBuf;

use piton_db::capture::Snapshot;
use piton_db::fingerprint::Structure;
use piton_db::manifest::Manifest;
use piton_db::migrate::Migrations;
use piton_db::replay::Rescued;
use piton_db::replay::reverse::{self, Held, Reverse};
use piton_db::{Database, DbError, facts};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Ctx;
use super::hold::Hold;
use super::rehearse::{Rehearsed, compared};
use crate::fault::{Fault, OrFault};
use crate::words;

/// A migrated database that can go back in place.
pub(super) struct Reversal<'a, 'c, 'w> {
    ctx: &'a Ctx<'c, 'w>,
    live: &'a Database,
    golden: Database,
    migrations: &'a Migrations,
    rehearsed: Rehearsed,
    reverse: Reverse,
    backup: Snapshot,
}

/// What is noted before the first down migration runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Begun {
    rescued: Option<Saved>,
    /// Requests that were under way.
    cut_off: u64,
}

/// What was saved before it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    file: PathBuf,
    rows: u64,
    values: u64,
}

/// What became of it.
pub(super) enum Reversed {
    /// The database is as before.
    Back(Value),
    /// The migration stays, for this reason.
    Kept(String),
}

impl<'a, 'c, 'w> Reversal<'a, 'c, 'w> {
    /// Names it, where the rehearsal offers it.
    pub(super) fn of(
        ctx: &'a Ctx<'c, 'w>,
        live: &'a Database,
        golden: &str,
        migrations: &'a Migrations,
    ) -> Result<Option<Self>, Fault> {
        let Some(rehearsed) = ctx.outcome::<Rehearsed>("rehearse") else { return Ok(None) };
        let Some(reverse) = rehearsed.reverse.clone() else { return Ok(None) };
        let Some(backup) = ctx.plan.backup() else { return Ok(None) };
        let manifest = Manifest::read(&backup.folder).or_fault(|| "the backup cannot be read".into())?;
        let golden = live.with_name(golden);
        let of = |backup| Self { ctx, live, golden, migrations, rehearsed, reverse, backup };
        Ok(manifest.sees.map(of))
    }

    /// Takes the migration back, when nothing that somebody has written is lost by it; `note` is called before the first down migration.
    pub(super) async fn run(&self, note: impl Fn(&Begun) -> Result<(), Fault>) -> Result<Reversed, Fault> {
        if !facts::exists(&self.golden).await.or_fault(unreadable)? {
            return Ok(Reversed::Kept(format!("the golden copy {} is gone", self.golden.dbname)));
        }
        let structure = Structure::of(self.live).await.or_fault(unreadable)?;
        if compared(&structure).hash() != self.rehearsed.structure {
            return Ok(Reversed::Kept("the structure is not the rehearsed one".into()));
        }
        let mut hold = Hold::new(self.ctx).await?;
        let reversed = self.hold_and_run(&mut hold, note).await;
        let lapsed = hold.end().await?;
        Ok(reversed?.with_hold(lapsed))
    }

    /// Goes on where an attempt was cut off that had begun to take it back.
    pub(super) async fn resume(
        &self,
        begun: &Begun,
        note: impl Fn(&Begun) -> Result<(), Fault>,
    ) -> Result<Reversed, Fault> {
        // Ends a down migration that was cut off, or waits for it: it may still commit.
        let nothing = super::migrate::take_back(self.ctx, self.migrations, self.live, &[]).await?;
        nothing.or_fault(|| "a down migration that was cut off does not end".into())?;
        self.let_go().await?;
        if self.left().await?.len() == self.rehearsed.migrations.len() {
            return self.run(note).await;
        }
        let mut hold = Hold::new(self.ctx).await?;
        let cut_off = hold.begin().await;
        let reversed = match cut_off {
            Ok(_) => self.take_back(begun).await,
            Err(fault) => Err(fault),
        };
        let lapsed = hold.end().await?;
        Ok(reversed?.with_hold(lapsed))
    }

    async fn hold_and_run(
        &self,
        hold: &mut Hold,
        note: impl Fn(&Begun) -> Result<(), Fault>,
    ) -> Result<Reversed, Fault> {
        let cut_off = hold.begin().await?;
        if cut_off > 0 && !self.ctx.database {
            return Ok(Reversed::Kept(format!("{} did not end in time", words::counted(cut_off, "request"))));
        }
        // Whoever writes past the proxy is refused from here on, and told to try again: what is lost was never acknowledged.
        let held = match Held::begin(self.live, &self.reverse).await {
            Ok(Some(held)) => held,
            Ok(None) => return Ok(Reversed::Kept("somebody writes to the database past the proxy".into())),
            Err(error @ (DbError::Sql { .. } | DbError::Privilege { .. })) => {
                return Ok(Reversed::Kept(error.to_string()));
            }
            Err(error) => {
                return Err(error).or_fault(|| "the tables cannot be kept from being written".into());
            }
        };
        if let Some(why) = held.obstacle(&self.reverse, &self.backup).await.or_fault(unreadable)? {
            drop(held);
            self.let_go().await?;
            return Ok(Reversed::Kept(why));
        }
        let file = super::rescue::file(self.ctx)?;
        let rescued = held
            .save(&self.reverse, &self.backup, &file)
            .await
            .or_fault(|| "what the old structure has no place for cannot be saved".into())?;
        let rescued = rescued.map(|Rescued { rows, values }| Saved { file, rows, values });
        let begun = Begun { rescued, cut_off };
        note(&begun)?;
        self.take_back(&begun).await
    }

    /// Runs the down migrations, and what follows them.
    async fn take_back(&self, begun: &Begun) -> Result<Reversed, Fault> {
        let names = &self.rehearsed.migrations;
        let took = super::migrate::take_back(self.ctx, self.migrations, self.live, names).await?;
        let error = match took {
            Ok(_) => return self.finish(begun).await.map(Reversed::Back),
            Err(error @ DbError::Migration(_)) => error,
            Err(error) => return Err(error).or_fault(|| "the migration cannot be taken back".into()),
        };
        self.let_go().await?;
        let said = super::without(&super::secret_values(self.ctx.settings()), &error.to_string());
        let left = self.left().await?;
        if left.len() == names.len() {
            // It stays as it is, with all that the file holds.
            if let Some(saved) = &begun.rescued {
                fs_err::remove_file(&saved.file).or_fault(|| "a file cannot be removed".into())?;
            }
            return Ok(Reversed::Kept(said));
        }
        let gone: Vec<String> = names.iter().filter(|name| !left.contains(name)).cloned().collect();
        Ok(Reversed::Kept(format!("{said}; {} had been taken back", gone.join(", "))))
    }

    /// Fills again what the migration had removed, and looks whether all is as before.
    async fn finish(&self, begun: &Begun) -> Result<Value, Fault> {
        self.let_go().await?;
        let refilled = reverse::refill(&self.golden, self.live, &self.reverse, &self.backup).await;
        let refilled = refilled.or_fault(|| "the columns cannot be filled again".into())?;
        let before = self.migrations.structure(&self.golden).await.or_fault(unreadable)?;
        let now = self.migrations.structure(self.live).await.or_fault(unreadable)?;
        let differs = compared(&before).changes_to(&compared(&now));
        Ok(json!({
            "reversed": true,
            "migrations": self.rehearsed.migrations,
            "refilled": refilled,
            "rescued": begun.rescued,
            "cut_off": begun.cut_off,
            "differs": differs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))
    }

    /// Lists the migrations that the database still has.
    async fn left(&self) -> Result<Vec<String>, Fault> {
        let recorded = self.migrations.recorded(self.live).await.or_fault(unreadable)?;
        let is_there = |name: &&String| recorded.iter().any(|one| one.finished && one.name == **name);
        Ok(self.rehearsed.migrations.iter().filter(is_there).cloned().collect())
    }

    /// Takes away what a killed attempt has left, so that nothing of it is in the way.
    pub(super) async fn let_go(&self) -> Result<(), Fault> {
        reverse::let_go(self.live).await.or_fault(|| "the tables cannot be written again".into())
    }
}

impl Reversed {
    fn with_hold(self, lapsed: bool) -> Self {
        match self {
            Self::Back(mut outcome) => {
                outcome["hold_lapsed"] = json!(lapsed);
                Self::Back(outcome)
            }
            kept @ Self::Kept(_) => kept,
        }
    }
}

fn unreadable() -> String {
    "the database cannot be read".into()
}
