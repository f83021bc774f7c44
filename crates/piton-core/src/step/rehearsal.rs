//! A rehearsal's report as people read it.

use piton_db::rehearsal::{Impact, Report, SAMPLE_MS, Step};
use piton_db::replay::Offer;
use serde::Deserialize;
use serde_json::Value;

use super::Ctx;
use super::serving::Serving;
use super::way_back::{Estimate, WayBack};
use crate::fault::Fault;
use crate::words;

/// The file in the release's folder of logs that holds the whole report.
const FILE: &str = "rehearsal.md";

/// Tells in a line how long the migrations took, and how long others waited; nothing when none ran.
pub(super) fn words(outcome: &Value) -> Option<String> {
    let report = Report::deserialize(outcome.get("report")?).ok()?;
    let names: Vec<String> = report.steps.iter().map(|step| step.name.clone()).collect();
    if names.is_empty() {
        return None;
    }
    Some(format!("{} up {} · {}", words::some(&names, 1), words::span(report.ms()), waits(&report)))
}

fn waits(report: &Report) -> String {
    if report.unwatched {
        return "how long others waited is not known".into();
    }
    let rows = report.rows_waited().map(|(ms, table)| {
        format!("writes to rows that it changed in {table} waited up to {}", words::span(ms))
    });
    let tables = match (report.reads_waited(), report.writes_waited()) {
        (None, None) if rows.is_some() => "no read waited".into(),
        (None, None) => "nobody waited".into(),
        (None, Some(writes)) => format!("no read waited, writes ≤ {}", words::span(writes)),
        (Some(reads), writes) => {
            let writes = writes.unwrap_or(SAMPLE_MS).max(reads);
            format!("reads waited ≤ {}, writes ≤ {}", words::span(reads), words::span(writes))
        }
    };
    match rows {
        Some(rows) => format!("{tables}, {rows}"),
        None => tables,
    }
}

/// Tells what the line has no room for.
pub(super) fn more(outcome: &Value) -> Vec<String> {
    let serving = outcome.get("serving").and_then(|serving| Serving::deserialize(serving).ok());
    let estimate = outcome.get("estimate").and_then(|estimate| Estimate::deserialize(estimate).ok());
    let way_back = outcome.get("way_back").and_then(|way_back| WayBack::deserialize(way_back).ok());
    let serving = serving.map(|serving| serving.words());
    let estimate = estimate.map(|estimate| estimate.words());
    let more = way_back.as_ref().map_or_else(Vec::new, WayBack::more);
    let way_back = way_back.map(|way_back| way_back.words());
    serving.into_iter().chain(estimate).chain(way_back).chain(more).collect()
}

/// Writes the whole report into the release's folder of logs.
pub(super) fn write(
    ctx: &Ctx<'_, '_>,
    report: &Report,
    serving: Option<&Serving>,
    way_back: Option<&WayBack>,
    offer: Option<&Offer>,
) -> Result<(), Fault> {
    let path = ctx.world.dirs.logs(&ctx.plan.id).join(FILE);
    let text = markdown(ctx, report, serving, way_back, offer);
    let written = match path.parent() {
        Some(folder) => fs_err::create_dir_all(folder).and_then(|()| fs_err::write(&path, text)),
        None => fs_err::write(&path, text),
    };
    written.map_err(|error| {
        let fault = Fault::surroundings("the rehearsal's report cannot be written").caused_by(&error);
        fault.hint(format!("make it writable, then piton resume {}", ctx.plan.environment))
    })
}

fn markdown(
    ctx: &Ctx<'_, '_>,
    report: &Report,
    serving: Option<&Serving>,
    way_back: Option<&WayBack>,
    offer: Option<&Offer>,
) -> String {
    let plan = &ctx.plan;
    let environment = ctx.world.from.as_ref().map_or(&plan.environment, |from| &from.environment);
    let server = super::database_of(ctx.settings()).map(|database| database.server()).unwrap_or_default();
    let mut text = format!(
        "# Rehearsal of {} for {}\n\nRelease {}. Up in {} · {}.\n\n\
         Measured on {server}, on a copy of {environment}'s database with all of its rows. On this server the migration \
         takes as long for real, when the server has no more to do than now; what it waits for locks comes on top.\n",
        plan.commit.short(),
        plan.environment,
        plan.id,
        words::span(report.ms()),
        waits(report),
    );
    if let Some(serving) = serving {
        text.push_str(&format!("\n{}.\n", serving.words()));
    }
    if let Some(way_back) = way_back {
        let words = way_back.words().replacen("way", "Way", 1);
        text.push_str(&format!("\n{words} ({}).\n", way_back.proved));
        text.push_str(&way_back.section(offer.map_or(&[][..], |offer| &offer.obstacles)));
    }
    for step in &report.steps {
        text.push_str(&section(step, report.unwatched));
    }
    text.push_str(&format!(
        "\nWaits and locks are looked at every {SAMPLE_MS} ms; what is shorter is not measured. A wait is that of a read or a \
         write which came right after the lock was taken. Sorted on disk: {}.\n",
        words::bytes(report.temp_bytes)
    ));
    for missing in &report.missing {
        text.push_str(&format!("\nMissing: {missing}.\n"));
    }
    text
}

fn section(step: &Step, unwatched: bool) -> String {
    let wal = match step.wal_bytes {
        Some(bytes) => format!("at most {} of WAL", words::bytes(bytes)),
        None => "how much WAL is not known".into(),
    };
    let mut text = format!("\n## {}\n\n{}, {wal}.\n", step.name, words::span(step.ms));
    if step.tables.is_empty() {
        text.push_str("No lock was seen on a table that was there before.\n");
        return text;
    }
    text.push_str(
        "\n| table | rows | size | lock | blocks | held | reads waited | writes waited | writes to changed rows |\n\
         |---|--:|--:|---|---|--:|--:|--:|--:|\n",
    );
    for impact in &step.tables {
        text.push_str(&rows(impact, unwatched));
    }
    text
}

/// Writes a row for each lock on a table; the table's own figures stand in the first.
fn rows(impact: &Impact, unwatched: bool) -> String {
    let wait = |ms: Option<u64>| ms.map_or_else(String::new, words::span);
    let mut text = String::new();
    for (number, lock) in impact.locks.iter().enumerate() {
        let held = match lock.held_ms {
            Some(ms) => format!("≤ {}", words::span(ms)),
            None if unwatched => "not known".into(),
            None => format!("< {SAMPLE_MS} ms"),
        };
        let inferred = if lock.inferred { ", inferred" } else { "" };
        let on = lock.index.as_ref().map_or_else(String::new, |index| format!(" on {index}"));
        let mut cells = [const { String::new() }; 6];
        if number == 0 {
            let rewritten = if impact.rewritten { " (rewritten)" } else { "" };
            cells = [
                format!("{}{rewritten}", impact.table),
                impact.rows.map_or_else(String::new, words::count),
                words::bytes(impact.bytes),
                wait(impact.read_wait_ms),
                wait(impact.write_wait_ms),
                impact.row_wait_ms.map_or_else(String::new, |ms| format!("≤ {}", words::span(ms))),
            ];
        }
        let [table, count, size, reads, writes, changed] = cells;
        text.push_str(&format!(
            "| {table} | {count} | {size} | {}{on}{inferred} | {} | {held} | {reads} | {writes} | {changed} |\n",
            lock.mode, lock.blocks
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(writes: Option<u64>, rows: Option<u64>, unwatched: bool) -> String {
        let held = writes.map(|ms| json!({ "index": null, "mode": "share", "blocks": "writes", "inferred": false, "held_ms": ms }));
        let table = json!({
            "table": "items", "rows": 1, "bytes": 1, "locks": held.into_iter().collect::<Vec<_>>(), "rewritten": false,
            "read_wait_ms": null, "write_wait_ms": null, "row_wait_ms": rows,
        });
        let step = json!({ "name": "1.sql", "ms": 600_000, "wal_bytes": 1, "tables": [table] });
        let report = json!({
            "steps": [step], "temp_bytes": 0, "complete": true, "unwatched": unwatched, "missing": [],
        });
        waits(&Report::deserialize(report).unwrap())
    }

    #[test]
    fn nobody_waited_is_said_only_where_it_is_so() {
        assert_eq!(said(None, None, false), "nobody waited");
        let rows = "writes to rows that it changed in items waited up to 10 min 0 s";
        assert_eq!(said(None, Some(600_000), false), format!("no read waited, {rows}"));
        assert_eq!(said(Some(300), Some(600_000), false), format!("no read waited, writes ≤ 0.3 s, {rows}"));
        // Who waits for the table waits for its rows as well.
        assert_eq!(said(Some(600_000), Some(600_000), false), "no read waited, writes ≤ 10 min 0 s");
        assert_eq!(said(None, None, true), "how long others waited is not known");
    }
}
