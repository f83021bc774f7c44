//! Configuration, plan, journal, engine, steps and gate of a release. No terminal, no HTTP server.

pub mod backups;
pub mod config;
pub mod dirs;
pub mod engine;
pub mod facts;
pub mod fault;
mod files;
pub mod gate;
mod http;
pub mod journal;
mod lint;
pub mod look;
pub mod plan;
mod ports;
pub mod project;
pub mod retention;
pub mod step;
mod table;
pub mod words;
