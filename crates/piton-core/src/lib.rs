//! Configuration, plan, journal, engine, steps, targets and gate of a release. No terminal, no HTTP server.

pub mod config;
