//! What the benchmarks share: a table for people and a report for machines.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::postgres::Cluster;

/// What a benchmark found; written to `target/bench/NAME.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The benchmark's name.
    pub name: &'static str,
    /// What `ours` and `peer` are counted in.
    pub unit: &'static str,
    /// What is to be reached.
    pub goal: &'static str,
    /// One row a case.
    pub rows: Vec<Row>,
}

/// One case of a benchmark.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// The median of our runs.
    pub ours: f64,
    /// The median of the peer's runs, when there is a peer.
    pub peer: Option<f64>,
    /// What ours is compared with.
    pub peer_name: &'static str,
    /// `ours / peer`.
    pub ratio: Option<f64>,
    /// How many runs of each there were, one of ours after one of the peer's.
    pub runs: usize,
}

impl Row {
    /// Takes the medians of interleaved runs; `peer` may be empty.
    pub fn of(case: impl Into<String>, ours: &[f64], peer: &[f64], peer_name: &'static str) -> Self {
        let (runs, ours) = (ours.len(), median(ours));
        let peer = (!peer.is_empty()).then(|| median(peer));
        let ratio = peer.filter(|peer| *peer > 0.0).map(|peer| ours / peer);
        Self { case: case.into(), ours, peer, peer_name, ratio, runs }
    }
}

impl Report {
    /// Prints the table and writes the file; returns where the file lies.
    ///
    /// # Errors
    /// When the file cannot be written.
    #[expect(clippy::print_stdout, reason = "a benchmark's data is its table")]
    pub fn publish(&self) -> io::Result<PathBuf> {
        let peer = self.rows.first().map_or("peer", |row| row.peer_name);
        let title = format!("{}, {}", self.name, self.unit);
        println!("\n{title:<58} {:>10} {peer:>18} {:>8}", "piton", "ratio");
        for row in &self.rows {
            let cell = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
            println!(
                "{:<58} {:>10} {:>18} {:>8}",
                row.case,
                cell(Some(row.ours)),
                cell(row.peer),
                cell(row.ratio)
            );
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
        fs_err::create_dir_all(&dir)?;
        let path = dir.join(format!("{}.json", self.name));
        fs_err::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        println!("\nwritten to target/bench/{}.json", self.name);
        Ok(path)
    }
}

/// Makes a database of this size: customers, orders and their items, with keys, indexes and foreign keys as an app has them.
///
/// # Errors
/// When the server refuses.
pub async fn make_shop(
    cluster: &Cluster,
    database: &str,
    megabytes: u64,
) -> Result<(), tokio_postgres::Error> {
    cluster.create_database(database).await;
    // Measured: 1,000 orders with four items each take 0.79 MB with their indexes.
    let orders = megabytes * 1270;
    let client = cluster.connect(database).await;
    let sql = format!(
        "create table customers (id bigint generated always as identity primary key, email text not null unique,
             name text not null, address jsonb not null, created_at timestamptz not null);
         create table orders (id bigint generated always as identity primary key,
             customer bigint not null references customers, placed_at timestamptz not null, state text not null,
             total numeric(12,2) not null, note text);
         create table items (id bigint generated always as identity primary key, order_id bigint not null references orders,
             product int not null, quantity int not null, price numeric(10,2) not null, label text not null);
         insert into customers (email, name, address, created_at)
             select 'customer' || i || '@example.org', initcap(substr(md5(i::text), 1, 8)) || ' ' || initcap(substr(md5((i * 7)::text), 1, 10)),
                    jsonb_build_object('street', substr(md5((i * 3)::text), 1, 14), 'number', i % 200, 'city', substr(md5((i % 900)::text), 1, 9)),
                    timestamptz '2024-01-01' + i * interval '71 seconds'
             from generate_series(1::bigint, {customers}) i;
         insert into orders (customer, placed_at, state, total, note)
             select 1 + i * 7919 % {customers}, timestamptz '2025-01-01' + i * interval '11 seconds',
                    (array['open', 'paid', 'sent', 'returned'])[1 + i % 4], (i * 37 % 90000) / 100.0,
                    case when i % 5 = 0 then 'note ' || md5(i::text) end
             from generate_series(1::bigint, {orders}) i;
         insert into items (order_id, product, quantity, price, label)
             select 1 + i % {orders}, i * 31 % 5000, 1 + i % 6, (i * 13 % 20000) / 100.0, 'item ' || md5((i * 17)::text)
             from generate_series(1::bigint, {items}) i;
         create index on orders (customer);
         create index on orders (placed_at);
         create index on items (order_id);
         create index on items (product, quantity);",
        customers = orders / 4,
        items = orders * 4,
    );
    client.batch_execute(&sql).await?;
    client.batch_execute("vacuum analyze").await?;
    client.batch_execute("checkpoint").await
}

/// Returns the middle of the values, or the mean of the two in the middle; 0 when there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => f64::midpoint(values[(count - 1) / 2], values[count / 2]),
    }
}
