//! The golden copy in step with the live database, from the migration until the way back closes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use piton_db::capture::Source;
use piton_db::manifest::Manifest;
use piton_db::replay::{self, Replay};
use piton_db::{Database, DbError};
use tokio::task::JoinHandle;

use super::capture::captured;
use super::rehearse::Rehearsed;
use super::{Ctx, Step};
use crate::fault::{Fault, OrFault};

/// How long the golden copy may be behind while nothing is held: what it takes to catch up then is what requests wait.
const PAUSE: Duration = Duration::from_secs(1);

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

    /// Follows up to now, again and again, until that takes no longer than requests may wait for.
    pub(super) async fn catch_up(&self, replay: &mut Replay) -> Result<(), DbError> {
        loop {
            let began = Instant::now();
            self.to_now(replay).await?;
            if began.elapsed() < PAUSE {
                return Ok(());
            }
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

    /// Says why not every write is kept any more; a server that cannot be asked has lost nothing yet.
    pub(super) async fn lost(&self) -> Option<String> {
        self.source.lost(&self.live).await.unwrap_or_default()
    }
}

/// Keeps a golden copy in step, in the background, until it is dropped; where it stands is in the golden copy.
#[derive(Debug)]
pub(super) struct Following {
    task: JoinHandle<()>,
    lost: Arc<Mutex<Option<String>>>,
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
        let lost = Arc::<Mutex<Option<String>>>::default();
        let task = tokio::spawn(keep_in_step(followed, Arc::clone(&lost)));
        Some(Self { task, lost })
    }

    /// Says why the golden copy can never follow again, when that has come about meanwhile.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_in_step(followed: Followed, lost: Arc<Mutex<Option<String>>>) {
    // What was lost before is no news.
    if !replay::is_prepared(&followed.golden).await.unwrap_or(false) || followed.lost().await.is_some() {
        return;
    }
    loop {
        let Err(error) = follow(&followed).await;
        tracing::debug!(%error, "the golden copy does not follow");
        let why = match error {
            DbError::Replay(_) => Some(error.to_string()),
            _ => followed.lost().await,
        };
        if why.is_some() {
            *lost.lock().unwrap_or_else(PoisonError::into_inner) = why;
            return;
        }
        tokio::time::sleep(AFTER_FAULT).await;
    }
}

async fn follow(followed: &Followed) -> Result<std::convert::Infallible, DbError> {
    let mut replay = followed.resume().await?;
    loop {
        followed.to_now(&mut replay).await?;
        tokio::time::sleep(PAUSE).await;
    }
}
