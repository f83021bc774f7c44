//! The whole tool against real servers.
//!
//! One program: its tests share a PostgreSQL server, are linked once, and none waits for another file's slowest.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test code: a helper that fails has failed the test"
)]

mod accounts;
mod adapters;
mod carried_back;
mod common;
mod end_to_end;
mod faults;
mod fresh;
mod guards;
mod guides;
mod identity;
mod json_contract;
mod kill;
mod lint;
mod loaded_again;
mod mask;
mod migration;
mod order_contract;
mod orders;
mod output;
mod piton_toml_reference;
mod processes;
mod rehearsal;
mod rewind;
mod rollback_to;
mod step_contract;
mod store;
mod taken_back;
mod transcripts;
mod way_back;
