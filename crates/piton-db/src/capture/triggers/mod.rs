//! Every write to a live database where its log cannot be read: noted by triggers, in the transaction that writes.
//!
//! [`install`] makes the schema `piton_capture` with a table of changes, and a trigger on each table that has rows. A change is a row as
//! the server writes it, with the place in the log where it was noted and the number of its transaction. [`Store`] tells them as the
//! log's own [`Stream`](super::Stream) does. [`remove`] takes all of it away.
//!
//! A row is noted in the layout that its table had then: the function of each table's trigger carries the number of that layout, and
//! event triggers make it anew in the transaction that alters a table. They have a new table noted, too, from its first row on. So
//! without event triggers there is no such capture: between a table's making and the next look of ours rows would be lost, and nothing
//! would tell.
//!
//! What is read is divided into windows: a snapshot is put down, and what it sees and the one before it does not see is the window's.
//! Numbers would not do, because transactions become visible in another order than they take them. A place in this store is a window's
//! number and how many of its transactions were told.
//!
//! No app is made to fail by it. Where the store grows beyond its budget nothing more is noted, which ends the way back: each
//! function carries the place in the log behind which it does nothing, and that place is moved on only while somebody reads.

mod bound;
mod composite;
mod install;
mod means;
mod order;
mod read;

pub use bound::{State, give_up, state};
pub use install::{install, is_entry, remove};
pub use means::missing;
pub use read::{Store, now};

/// The schema that all of it lies in.
pub(crate) const SCHEMA: &str = "piton_capture";

/// What the names of our triggers begin with: the app's own fire later.
pub(crate) const TRIGGER: &str = "!piton_capture_";

/// Whoever writes with this setting is a migration's session.
///
/// Its role will not do: small installations migrate as the user that the app runs as. The setting switches nothing off, and an app
/// that does not know Piton has no reason to set it. It comes with the startup options, so that a `RESET ALL` leaves it. The rehearsal
/// shows whether a tool's sessions have it.
pub(crate) const MIGRATING: (&str, &str) = ("piton.migrating", "on");
