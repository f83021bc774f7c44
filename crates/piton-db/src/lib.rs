//! Backup, proof, clone, fingerprint, migrations and swap of a PostgreSQL database. Knows no release.
//!
//! Every operation may be repeated after whatever killed it: it recognises what is done, removes its own leftovers by their mark,
//! and touches nothing that it did not make. Tried on PostgreSQL 15, 16 and 18.

pub mod archive;
pub mod backup;
pub mod blockers;
pub mod brought;
pub mod capture;
pub mod changes;
pub mod cron;
mod dumpfile;
mod error;
pub mod facts;
mod files;
pub mod fingerprint;
mod hex;
pub mod identity;
pub mod large_objects;
pub mod lint;
pub mod locate;
mod lock;
pub mod loss;
pub mod made;
pub mod manifest;
pub mod mask;
pub mod migrate;
pub mod neutral;
mod normalise;
mod progress;
pub mod properties;
pub mod prove;
pub mod quote;
pub mod rehearsal;
pub mod replay;
pub mod replication;
mod rowsum;
pub mod shared;
pub mod store;
pub mod swap;
mod tables;
mod target;
mod tls;
mod toc;
pub mod tools;
pub mod versions;

pub use error::{DbError, SqlError, Trouble};
pub use progress::{OnProgress, OnReport, Progress, Ran, Report};
pub use rowsum::{RowSum, Sum};
pub use tables::Table;
pub use target::{Database, Session, in_url};
pub use tls::SslMode;
