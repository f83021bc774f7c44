//! The traffic data plane: slots, weights, stickiness, hold, drain, per-slot statistics.
//!
//! [`serve`] runs the proxy in the calling process until it is stopped or handed over to a successor;
//! [`control::Client`] gives it orders. The proxy knows no release: it has two slots, each an upstream
//! address or none, and a weight that says which share of the sticky buckets green has.
//!
//! Each worker is a thread with a runtime, listeners, upstream connections and counters of its own, so the
//! request path takes no lock. What an order changes is one [`arc_swap`] pointer that every worker reads
//! once per request.

mod body;
mod bucket;
mod claim;
pub mod control;
mod forward;
mod headers;
mod hold;
mod meter;
mod page;
mod pool;
mod routing;
mod serve;
mod slot;
mod state;
mod stats;
mod succession;
mod unix;
mod websocket;
mod worker;

pub use bucket::{BUCKET_COOKIE, BUCKETS, Bucket};
pub use claim::ClaimError;
pub use serve::{Options, ServeError, Timeouts, serve, serve_with};
pub use slot::{PerSlot, Slot, Weights};
pub use state::StateError;
