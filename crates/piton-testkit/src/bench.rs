//! What the benchmarks share: a table for people and a report for machines.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

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

/// Returns the middle of the values, or the mean of the two in the middle; 0 when there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => f64::midpoint(values[(count - 1) / 2], values[count / 2]),
    }
}
