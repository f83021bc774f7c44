//! Every write to a live database since its backup, in the order of commits, read from the server's own log; or, where that cannot be
//! read, noted by [`triggers`]. A [`Source`] is either.
//!
//! A logical slot is made before the backup's snapshot, so that what the dump does not hold is in the stream. It goes through
//! `test_decoding`: the only plugin of PostgreSQL's own that needs no publication, which would make the app's UPDATE of a table
//! without a key fail. No statement of the app gets slower by a trigger, and nothing is put into its database.

mod change;
mod decoded;
mod lsn;
mod means;
mod readings;
mod slot;
mod snapshot;
mod source;
mod stream;
pub mod triggers;
mod whole;
mod wire;

pub use change::{Change, Column, Name, Tuple, Value};
pub use lsn::Lsn;
pub use means::{Missing, missing};
pub(crate) use readings::end_readings;
pub(crate) use slot::PREFIX;
pub use slot::{Lag, WalStatus, create_slot, create_slot_within, drop_slot, lag, now, slot_name, snapshot};
pub use snapshot::Snapshot;
pub(crate) use snapshot::is_since;
pub use source::{Reading, Source};
pub use stream::{Message, Stream};
pub use whole::{Keyless, tell_whole, without_identity};
