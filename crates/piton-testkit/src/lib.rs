//! What the tests share: a sealed environment, throw-away PostgreSQL clusters, load and fault makers.

pub mod bench;
pub mod example;
pub mod load;
pub mod pooler;
pub mod postgres;
pub mod stage;
pub mod store;
pub mod tools;
pub mod turns;
