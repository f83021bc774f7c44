//! Where a request goes: the one value that orders replace and every request reads.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::bucket::Bucket;
use crate::hold::Hold;
use crate::page::{MaintenancePage, Refusal};
use crate::slot::Slot;
use crate::state::State;

/// The orders in force, as the request path reads them.
#[derive(Clone, Default)]
pub(crate) struct Routing {
    /// Counts every change, holds included, within this process.
    version: u64,
    state: State,
    maintenance: Option<Arc<MaintenancePage>>,
    hold: Option<Arc<Hold>>,
}

/// Where one request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) slot: Slot,
    pub(crate) upstream: SocketAddr,
    version: u64,
}

/// The routing in force, replaced whole.
#[derive(Default)]
pub(crate) struct Router(ArcSwap<Routing>);

impl Router {
    /// Puts the orders in `state` and the hold in force for every request that is routed from now on.
    pub(crate) fn put(&self, state: &State, hold: Option<&Arc<Hold>>) {
        let maintenance = state.maintenance.as_ref().map(|order| Arc::new(MaintenancePage::new(order)));
        self.0.rcu(|before| Routing {
            version: before.version + 1,
            state: state.clone(),
            maintenance: maintenance.clone(),
            hold: hold.cloned(),
        });
    }

    /// Puts the orders in `state` in force if they are not yet: each change makes requests connect anew.
    pub(crate) fn follow(&self, state: &State) {
        if self.0.load().state != *state {
            self.put(state, None);
        }
    }

    /// Returns where a request of `bucket` goes, once no hold is in its way.
    ///
    /// Nothing is awaited between the reading of the routing and the return.
    pub(crate) async fn admit(&self, bucket: Bucket) -> Result<Target, Refusal> {
        loop {
            let hold = {
                let routing = self.0.load();
                match &routing.hold {
                    Some(hold) if routing.maintenance.is_none() && !hold.is_over() => Arc::clone(hold),
                    _ => return routing.target(bucket),
                }
            };
            hold.wait().await.map_err(|_| Refusal::HoldExpired)?;
        }
    }

    /// Says whether no order came since `target` was chosen.
    pub(crate) fn still_holds(&self, target: Target) -> bool {
        self.0.load().version == target.version
    }
}

impl Routing {
    fn target(&self, bucket: Bucket) -> Result<Target, Refusal> {
        if let Some(page) = &self.maintenance {
            return Err(Refusal::Maintenance(Arc::clone(page)));
        }
        let slot = self.state.weights.slot(bucket);
        let upstream = self.state.upstreams[slot].ok_or(Refusal::NoUpstream(slot))?;
        Ok(Target { slot, upstream, version: self.version })
    }
}
