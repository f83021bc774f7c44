//! The proxy as its users have it: a process of its own, real sockets, real clients.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test that called them")]

mod faults;
mod forwarding;
mod handover;
mod lifetime;
mod orders;
mod routing;
mod support;
mod websocket;
