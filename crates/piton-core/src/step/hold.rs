//! What keeps requests from a database while it changes places.

use std::time::{Duration, Instant};

use piton_db::Database;
use piton_db::changes::{self, Frozen};
use piton_proxy::Slot;
use piton_proxy::control::{Client, ControlError};

use super::Ctx;
use super::proxy::no_answer;
use crate::fault::{Fault, OrFault};
use crate::http;

/// How long requests may wait at the proxy while databases change places.
const BOUND: Duration = Duration::from_secs(20);
/// How long each thing may take that is done while they wait.
pub(super) const PART: Duration = Duration::from_secs(5);

/// Requests wait at the proxy until this ends; the proxy ends it by itself when this process dies.
pub(super) struct Hold(Option<Client>);

impl Hold {
    /// Connects to the proxy; without one there is nobody to hold.
    pub(super) async fn new(ctx: &Ctx<'_, '_>) -> Result<Self, Fault> {
        match Client::connect(&ctx.world.dirs.proxy(&ctx.plan.environment)).await {
            Ok(client) => Ok(Self(Some(client))),
            Err(ControlError::NotRunning { .. }) => Ok(Self(None)),
            Err(error) => Err(Fault::surroundings(no_answer()).caused_by(&error)),
        }
    }

    /// Lets new requests wait from now on, for as long as a hold lasts, and waits for those under way.
    ///
    /// Returns how many are under way still.
    pub(super) async fn begin(&mut self) -> Result<u64, Fault> {
        let Some(client) = &mut self.0 else { return Ok(0) };
        client.hold(BOUND).await.or_fault(no_answer)?;
        let (began, mut left) = (Instant::now(), 0);
        for slot in Slot::BOTH {
            let bound = PART.saturating_sub(began.elapsed());
            left += client.drain(slot, bound).await.or_fault(no_answer)?.left;
        }
        Ok(left)
    }

    /// Waits, while requests still wait, until the release that serves has found its database again.
    ///
    /// Its sessions ended with the swap; a pool mends itself at its next use, and that shall not be somebody's request.
    pub(super) async fn let_recover(ctx: &Ctx<'_, '_>) {
        let Some(live) = &ctx.plan.live else { return };
        let began = Instant::now();
        while began.elapsed() < PART {
            let answer = http::get(live.start.port, &live.start.ready.get, Duration::from_secs(1)).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets the requests go on; returns whether it had ended before, and some went on meanwhile.
    pub(super) async fn end(mut self) -> Result<bool, Fault> {
        self.let_go().await
    }

    /// Lets the requests go on as [`Hold::end`] does, to begin anew later.
    pub(super) async fn let_go(&mut self) -> Result<bool, Fault> {
        match &mut self.0 {
            Some(client) => Ok(client.release().await.or_fault(no_answer)?.lapsed),
            None => Ok(false),
        }
    }
}

/// Gets a database ready to be [kept still](freeze) while requests do not wait yet; returns whether that took time.
///
/// Autovacuum at a table gives way only to whoever has waited for a second.
pub(super) async fn get_ready_to_freeze(live: &Database) -> Result<bool, Fault> {
    changes::send_autovacuum_away(live).await.or_fault(cannot_be_kept_still)
}

/// Keeps a database still for what is done while requests wait; `None` when somebody writes past the proxy all the time.
pub(super) async fn freeze(live: &Database) -> Result<Option<Frozen>, Fault> {
    changes::freeze(live, PART).await.or_fault(cannot_be_kept_still)
}

fn cannot_be_kept_still() -> String {
    "the database cannot be kept still".into()
}
