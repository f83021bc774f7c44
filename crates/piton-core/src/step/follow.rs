//! The golden copy in step with the live database, from the migration until the way back closes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use piton_db::capture::Source;
use piton_db::manifest::Manifest;
use piton_db::replay::{self, Replay};
use piton_db::{Database, DbError, facts};
use tokio::task::JoinHandle;

use super::capture::captured;
use super::rehearse::Rehearsed;
use super::{Ctx, Step};
use crate::fault::{Fault, OrFault};
use crate::words;

/// How long the golden copy may be behind while nothing is held: what it takes to catch up then is what requests wait.
const PAUSE: Duration = Duration::from_secs(1);

/// A round of catching up gains when it takes less than this share of the one before.
const GAIN: f64 = 0.9;

/// How many rounds may gain nothing, one after the other.
const ROUNDS: u32 = 5;

/// How long a server may be away while it is caught up with.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before a reading that broke off is taken up again.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// A golden copy that can follow, and what it follows by.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    pub(super) golden: Database,
    pub(super) live: Database,
    pub(super) source: Source,
}

impl Followed {
    /// Names what a migration's way back is made of, where its rehearsal has shown that later writes can go along.
    pub(super) fn of(ctx: &Ctx<'_, '_>, live: &Database, golden: &str) -> Option<Self> {
        let source = captured(ctx)?.source;
        let offer = ctx.outcome::<Rehearsed>("rehearse")?.offer?;
        let golden = live.with_name(golden);
        offer.obstacles.is_empty().then(|| Self { golden, live: live.clone(), source })
    }

    /// Makes the golden copy ready, right before the migration.
    pub(super) async fn prepare(&self, ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
        let unprepared = || "the golden copy cannot be made ready to follow".to_owned();
        let (Some(backup), Some(rehearsed)) = (ctx.plan.backup(), ctx.outcome::<Rehearsed>("rehearse"))
        else {
            return Ok(());
        };
        let sees = Manifest::read(&backup.folder).or_fault(unprepared)?.sees;
        if let (Some(sees), Some(offer), Some(record)) = (sees, rehearsed.offer, rehearsed.record) {
            replay::prepare(&self.golden, &self.live, &sees, &record, &offer.way)
                .await
                .or_fault(unprepared)?;
        }
        Ok(())
    }

    /// Notes the layout that a revision has left.
    pub(super) async fn note(&self) -> Result<(), DbError> {
        replay::note_layout(&self.golden, &self.live).await
    }

    /// Follows up to now, again and again, until that takes no longer than requests may wait for. A server that is away for a moment is
    /// waited for.
    pub(super) async fn catch_up(&self, ctx: &Ctx<'_, '_>) -> Result<CaughtUp, DbError> {
        ctx.say("carrying back what was written since the backup");
        let mut away: Option<Instant> = None;
        loop {
            let error = match self.catch_up_once(ctx, &mut away).await {
                Ok(Some(replay)) => return Ok(CaughtUp::Ready(replay)),
                Ok(None) => return Ok(CaughtUp::TooMuch),
                Err(error) => error,
            };
            if let Some(why) = self.hopeless(&error).await {
                return Ok(CaughtUp::Never(why));
            }
            if !is_passing(&error) || away.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(error);
            }
            let why = in_words(&error);
            ctx.say(&format!("cannot carry back what was written at this moment: {why}; it is tried again"));
            tokio::time::sleep(AFTER_FAULT).await;
        }
    }

    /// Follows until that takes no longer than requests may wait for; `None` where it does not come to that.
    async fn catch_up_once(
        &self,
        ctx: &Ctx<'_, '_>,
        away: &mut Option<Instant>,
    ) -> Result<Option<Box<Replay>>, DbError> {
        let mut replay = Box::new(self.resume().await?);
        let (mut pace, mut looked) = (Pace::default(), false);
        loop {
            let began = Instant::now();
            self.to_now(&mut replay).await?;
            *away = None;
            let took = began.elapsed();
            if took < PAUSE && looked {
                return Ok(Some(replay));
            }
            if took < PAUSE {
                // What takes long is done before anybody waits.
                replay.look_ahead().await?;
                looked = true;
                continue;
            }
            if pace.is_hopeless(took) {
                return Ok(None);
            }
            let took = words::span(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            ctx.say(&format!("carrying back what was written meanwhile; the last time it took {took}"));
        }
    }

    /// Follows up to all that is committed by now.
    pub(super) async fn to_now(&self, replay: &mut Replay) -> Result<(), DbError> {
        let client = self.live.connect().await?;
        let upto = self.source.now(&client).await?;
        drop(client);
        replay.reach(upto).await
    }

    pub(super) async fn resume(&self) -> Result<Replay, DbError> {
        Replay::resume(&self.golden, &self.live, &self.source).await
    }

    /// Says why trying again is of no use; a server that cannot be asked has lost nothing yet.
    pub(super) async fn hopeless(&self, error: &DbError) -> Option<String> {
        match error {
            DbError::Replay(why) => Some(why.clone()),
            _ if matches!(facts::exists(&self.golden).await, Ok(false)) => {
                Some(format!("the golden copy {} is gone; Piton did not drop it", self.golden.dbname))
            }
            _ => self.source.lost(&self.live).await.unwrap_or_default(),
        }
    }
}

/// What became of catching up.
pub(super) enum CaughtUp {
    /// The golden copy is as near as it has to be.
    Ready(Box<Replay>),
    /// Writes come as fast as they are carried back.
    TooMuch,
    /// It can never follow again, for this reason.
    Never(String),
}

/// Tells whether a server is away, or was: it may be back in a moment.
fn is_passing(error: &DbError) -> bool {
    match error {
        DbError::Connect { .. } | DbError::Sql { .. } | DbError::Replication { .. } => {
            error.code().is_none_or(|code| ["08", "57P"].iter().any(|class| code.code().starts_with(class)))
        }
        _ => false,
    }
}

/// Whether catching up comes to an end: what is written while one round goes on is what the next one has to do.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Duration>,
    /// How many rounds one after the other were hardly shorter than the one before.
    no_gain: u32,
}

impl Pace {
    /// Takes in how long a round took; tells whether writes come as fast as they are carried back.
    fn is_hopeless(&mut self, took: Duration) -> bool {
        let gains = self.last.is_none_or(|last| took < last.mul_f64(GAIN));
        self.no_gain = if gains { 0 } else { self.no_gain + 1 };
        self.last = Some(took);
        self.no_gain >= ROUNDS
    }
}

/// How a golden copy in the background stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody knows yet.
    #[default]
    Begun,
    /// It follows.
    InStep,
    /// It does not at this moment, for this reason; it is tried again.
    Behind(String),
    /// It never can again, for this reason.
    Lost(String),
}

/// Keeps a golden copy in step, in the background, until it is dropped; where it stands is in the golden copy.
#[derive(Debug)]
pub(super) struct Following {
    task: JoinHandle<()>,
    standing: Arc<Mutex<Standing>>,
}

impl Following {
    /// Begins, where the release has migrated and can follow.
    pub(super) fn begin(ctx: &Ctx<'_, '_>) -> Option<Self> {
        let golden = ctx.plan.steps.iter().find_map(|planned| match &planned.step {
            Step::Migrate(migrate) => Some(migrate.golden.clone()),
            _ => None,
        })?;
        let live = super::database_of(ctx.settings()).ok()?;
        let followed = Followed::of(ctx, &live, &golden)?;
        let standing = Arc::<Mutex<Standing>>::default();
        let task = tokio::spawn(keep_in_step(followed, Arc::clone(&standing)));
        Some(Self { task, standing })
    }

    /// Says how the golden copy stands; what was lost before it began is no news.
    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_in_step(followed: Followed, standing: Arc<Mutex<Standing>>) {
    let stand = |now: Standing| *standing.lock().unwrap_or_else(PoisonError::into_inner) = now;
    let mut begun = false;
    loop {
        let Err(error) = follow(&followed, &mut begun, &stand).await else { return };
        tracing::debug!(%error, "the golden copy does not follow");
        if let Some(why) = followed.hopeless(&error).await {
            return stand(Standing::Lost(why));
        }
        stand(Standing::Behind(in_words(&error)));
        tokio::time::sleep(AFTER_FAULT).await;
    }
}

/// Follows until it cannot; returns where there is nothing to follow, or was not when it `begun`.
async fn follow(followed: &Followed, begun: &mut bool, stand: &impl Fn(Standing)) -> Result<(), DbError> {
    if !*begun {
        if !replay::is_prepared(&followed.golden).await?
            || followed.source.lost(&followed.live).await?.is_some()
        {
            return Ok(());
        }
        *begun = true;
    }
    let mut replay = followed.resume().await?;
    loop {
        followed.to_now(&mut replay).await?;
        stand(Standing::InStep);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes an error and its causes in one line.
fn in_words(error: &DbError) -> String {
    Fault::surroundings("").caused_by(error).why.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catching_up_goes_on_while_it_gains() {
        let hopeless = |rounds: &[f64]| {
            let mut pace = Pace::default();
            rounds.iter().any(|seconds| pace.is_hopeless(Duration::from_secs_f64(*seconds)))
        };
        assert!(!hopeless(&[3600.0, 900.0, 200.0, 50.0, 12.0, 3.0]));
        // One that waits for a moment is no reason to give up.
        assert!(!hopeless(&[10.0, 11.0, 5.0, 6.0, 6.0, 2.0, 2.0, 2.0, 1.5]));
        assert!(hopeless(&[10.0, 10.0, 9.9, 9.8, 9.7, 9.6]));
        assert!(hopeless(&[2.0, 3.0, 4.0, 5.0, 6.0, 7.0]));
    }
}
