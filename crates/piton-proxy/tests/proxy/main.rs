//! The proxy as its users have it: a process of its own, real sockets, real clients.

mod routing;
mod support;
