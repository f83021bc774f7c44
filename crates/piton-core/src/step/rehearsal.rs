//! A rehearsal's report as people read it.

use piton_db::rehearsal::{Impact, Report, SAMPLE_MS, Step};
use serde::Deserialize;
use serde_json::Value;

use super::Ctx;
use super::serving::Serving;
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
    match (report.reads_waited(), report.writes_waited()) {
        (None, None) => "nobody waited".into(),
        (None, Some(writes)) => format!("no read waited, writes ≤ {}", words::span(writes)),
        (Some(reads), writes) => {
            let writes = writes.unwrap_or(SAMPLE_MS).max(reads);
            format!("reads waited ≤ {}, writes ≤ {}", words::span(reads), words::span(writes))
        }
    }
}

/// Tells what the line has no room for.
pub(super) fn more(outcome: &Value) -> Option<String> {
    Some(Serving::deserialize(outcome.get("serving")?).ok()?.words())
}

/// Writes the whole report into the release's folder of logs.
pub(super) fn write(ctx: &Ctx<'_, '_>, report: &Report, serving: Option<&Serving>) -> Result<(), Fault> {
    let path = ctx.world.dirs.logs(&ctx.plan.id).join(FILE);
    let text = markdown(ctx, report, serving);
    let written = match path.parent() {
        Some(folder) => fs_err::create_dir_all(folder).and_then(|()| fs_err::write(&path, text)),
        None => fs_err::write(&path, text),
    };
    written.map_err(|error| {
        let fault = Fault::surroundings("the rehearsal's report cannot be written").caused_by(&error);
        fault.hint(format!("make it writable, then piton resume {}", ctx.plan.environment))
    })
}

fn markdown(ctx: &Ctx<'_, '_>, report: &Report, serving: Option<&Serving>) -> String {
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
    for step in &report.steps {
        text.push_str(&section(step));
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

fn section(step: &Step) -> String {
    let mut text = format!(
        "\n## {}\n\n{}, at most {} of WAL.\n",
        step.name,
        words::span(step.ms),
        words::bytes(step.wal_bytes)
    );
    if step.tables.is_empty() {
        text.push_str("No lock was seen on a table that was there before.\n");
        return text;
    }
    text.push_str(
        "\n| table | rows | size | lock | blocks | held | reads waited | writes waited |\n|---|--:|--:|---|---|--:|--:|--:|\n",
    );
    for impact in &step.tables {
        text.push_str(&rows(impact));
    }
    text
}

/// Writes a row for each lock on a table; the table's own figures stand in the first.
fn rows(impact: &Impact) -> String {
    let wait = |ms: Option<u64>| ms.map_or_else(String::new, words::span);
    let mut text = String::new();
    for (number, lock) in impact.locks.iter().enumerate() {
        let held =
            lock.held_ms.map_or_else(|| format!("< {SAMPLE_MS} ms"), |ms| format!("≤ {}", words::span(ms)));
        let inferred = if lock.inferred { ", inferred" } else { "" };
        let on = lock.index.as_ref().map_or_else(String::new, |index| format!(" on {index}"));
        let mut cells = [const { String::new() }; 5];
        if number == 0 {
            let rewritten = if impact.rewritten { " (rewritten)" } else { "" };
            cells = [
                format!("{}{rewritten}", impact.table),
                impact.rows.map_or_else(String::new, words::count),
                words::bytes(impact.bytes),
                wait(impact.read_wait_ms),
                wait(impact.write_wait_ms),
            ];
        }
        let [table, count, size, reads, writes] = cells;
        text.push_str(&format!(
            "| {table} | {count} | {size} | {}{on}{inferred} | {} | {held} | {reads} | {writes} |\n",
            lock.mode, lock.blocks
        ));
    }
    text
}
