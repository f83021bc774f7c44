//! Where a request goes: the one value that orders replace and every request reads.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::bucket::Bucket;
use crate::hold::Hold;
use crate::page::{MaintenancePage, Refusal};
use crate::slot::{PerSlot, Slot, Weights};
use crate::state::State;

/// The orders in force, as the request path reads them.
#[derive(Clone, Default)]
pub(crate) struct Routing {
    /// Counts every change, holds included, within this process.
    version: u64,
    weights: Weights,
    upstreams: PerSlot<Option<SocketAddr>>,
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
    pub(crate) fn put(&self, state: &State, hold: Option<Arc<Hold>>) {
        self.0.store(Arc::new(Routing {
            version: self.0.load().version + 1,
            weights: state.weights,
            upstreams: state.upstreams,
            maintenance: state.maintenance.as_ref().map(|order| Arc::new(MaintenancePage::new(order))),
            hold,
        }));
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
        let slot = self.weights.slot(bucket);
        let upstream = self.upstreams[slot].ok_or(Refusal::NoUpstream(slot))?;
        Ok(Target { slot, upstream, version: self.version })
    }
}
