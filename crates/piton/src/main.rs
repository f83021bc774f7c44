//! Takes a web app and its database from staging to production and back.
fn main() {}
