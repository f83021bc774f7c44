use piton_db::neutral::Neutralised;
use serde::Deserialize;
use serde_json::Value;

use super::capture::still_whole;
use super::way_back::WayBack;
use super::{Lost, Step, rehearsal};
use crate::journal::State;
use crate::words;

impl Step {
    /// Tells what came of the step, for people; empty when there is nothing to tell.
    pub fn outcome_words(&self, outcome: &Value) -> String {
        let number = |key: &str| outcome.get(key).and_then(Value::as_u64).unwrap_or(0);
        let text = |key: &str| outcome.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match self {
            Step::Guard(_) => format!("{0} of {0} guards pass", number("guards")),
            Step::Mark(_) => "marked as this environment's".into(),
            Step::Build(build) => {
                let short = build.commit.get(..7).unwrap_or(&build.commit);
                match outcome.get("built_here").and_then(Value::as_bool) {
                    Some(false) => format!("{short} as built before"),
                    _ => format!("{short} built"),
                }
            }
            Step::Capture(_) => "every write is kept from here on".into(),
            Step::EndCapture(_) => "no write is kept any more".into(),
            Step::Backup(_) => {
                let database = format!(
                    "{} in {}",
                    words::counted(number("rows"), "row"),
                    words::counted(number("tables"), "table")
                );
                let files = match number("files") {
                    0 => String::new(),
                    files => format!(", {}", words::counted(files, "file")),
                };
                format!("{database}{files}, {}", words::bytes(number("bytes")))
            }
            Step::Fetch(_) => format!("{} fetched", words::bytes(number("received"))),
            Step::Upload(_) => match number("sent") {
                0 => "is there".into(),
                sent => format!("{} copied", words::bytes(sent)),
            },
            Step::Proof(_) => {
                let equal = format!(
                    "restored and equal: {}, {}, {}",
                    words::counted(number("tables"), "table"),
                    words::counted(number("rows"), "row"),
                    words::counted(number("objects"), "object")
                );
                let taken = outcome.get("neutralised").and_then(|taken| Neutralised::deserialize(taken).ok());
                match taken.and_then(|taken| taken.in_words()) {
                    Some(taken) => format!("{equal}; off: {taken}"),
                    None => equal,
                }
            }
            Step::Rehearse(_) => rehearsal::words(outcome).unwrap_or_else(|| migrations(outcome)),
            Step::Migrate(_) => migrations(outcome),
            Step::LoadRescued(_) => {
                format!(
                    "{} in again from an earlier attempt",
                    words::doing(number("loaded") + number("there"), "row", "is", "are")
                )
            }
            Step::Fresh(fresh) => match fresh.seed {
                Some(_) => format!("{}, and seeded", migrations(outcome)),
                None => migrations(outcome),
            },
            Step::CloneData(_) => "made anew from the golden copy".into(),
            Step::StartSlot(start) => {
                format!("{} ready after {}", start.slot, words::span(number("ready_ms")))
            }
            Step::Checks(checks) => format!("{0} of {0} checks", checks.checks.len()),
            Step::Connect(connect) => {
                format!("{} at :{} is known on {}, 0% of traffic", connect.slot, connect.port, connect.listen)
            }
            Step::Shift(_) => {
                let switched = outcome.get("switch_ms").and_then(Value::as_f64).unwrap_or(0.0);
                let switched = format!("switched in {switched:.1} ms");
                match text("why") {
                    why if why.is_empty() => switched,
                    why => format!("{why} · {switched}"),
                }
            }
            Step::Watch(_) => text("why"),
            Step::Unpack(unpack) => {
                format!("{} in {}", words::counted(number("files"), "file"), unpack.into.display())
            }
            Step::HandOver(hand_over) => format!("{} is yours", hand_over.name),
            Step::MigrateCopy(_) => migrations(outcome),
            Step::CountLoss(_) => {
                Lost::deserialize(outcome).map_or_else(|_| String::new(), |lost| lost.words())
            }
            Step::PutInPlace(place) => {
                let mut words = format!("{} is in place", place.to);
                match number("cut_off") {
                    0 => {}
                    count => words.push_str(&format!("; {} cut off", words::counted(count, "request"))),
                }
                if outcome.get("hold_lapsed").and_then(Value::as_bool) == Some(true) {
                    words.push_str("; it took longer than requests could wait");
                }
                words
            }
            Step::StopSlot(stop) => match number("cut_off") {
                0 => format!("{} stopped", stop.slot),
                count => format!("{} stopped, {} cut off", stop.slot, words::counted(count, "request")),
            },
            Step::DropCopies(_) => {
                let mut words = match outcome.get("dropped").and_then(Value::as_array).map_or(0, Vec::len) {
                    1 => "golden copy dropped".to_owned(),
                    count => format!("{count} databases dropped"),
                };
                for kept in outcome.get("kept").and_then(Value::as_array).into_iter().flatten() {
                    let holds = kept.get("holds").and_then(Value::as_str).unwrap_or_default();
                    words.push_str(&format!("; one stays, it holds {holds}"));
                }
                words
            }
            Step::Tidy(_) => {
                let count = |key: &str| outcome.get(key).and_then(Value::as_array).map_or(0, Vec::len) as u64;
                let removed: Vec<String> = [("builds", "build"), ("logs", "log")]
                    .into_iter()
                    .filter(|(key, _)| count(key) > 0)
                    .map(|(key, thing)| words::counted(count(key), thing))
                    .collect();
                if removed.is_empty() {
                    "nothing is too old".into()
                } else {
                    format!("{} removed", removed.join(", "))
                }
            }
            Step::Prune(_) => {
                let count = |key: &str| outcome.get(key).and_then(Value::as_array).map_or(0, Vec::len);
                // Most are in both places.
                let removed = match count("removed").max(count("removed_from_store")) {
                    0 => "none is too old".into(),
                    removed => format!("{removed} too old, removed"),
                };
                match text("store_kept") {
                    why if why.is_empty() => removed,
                    why => format!("{removed}; the store's stay: {why}"),
                }
            }
        }
    }

    /// Tells what else came of the step, in lines of their own.
    pub fn outcome_more(&self, outcome: &Value) -> Vec<String> {
        let joined = |key: &str| {
            let texts = texts(outcome, key);
            (!texts.is_empty()).then(|| texts.join("; "))
        };
        match self {
            Step::Rehearse(_) => rehearsal::more(outcome),
            Step::Proof(_) => joined("versions").into_iter().chain(not_copied(outcome)).collect(),
            // What stands so since long is told where something was migrated alone.
            Step::Migrate(_) => joined("migrations").and(joined("unfinished")).into_iter().collect(),
            Step::MigrateCopy(_) => {
                let missing = texts(outcome, "missing");
                let told =
                    format!("it has what the release that serves has not: {}", words::some(&missing, 3));
                (!missing.is_empty()).then_some(told).into_iter().collect()
            }
            Step::CountLoss(_) => {
                Lost::deserialize(outcome).map_or_else(|_| Vec::new(), |lost| super::loss::lines(&lost.loss))
            }
            Step::PutInPlace(_) => put_in_place(outcome),
            Step::EndCapture(_) => still_whole(outcome).into_iter().collect(),
            Step::LoadRescued(_) => {
                let left = outcome.get("left").and_then(Value::as_array).into_iter().flatten();
                let words = left.map(|left| {
                    let file = left.get("file").and_then(Value::as_str).unwrap_or_default();
                    let rows = texts(left, "rows");
                    let count = left.get("count").and_then(Value::as_u64).unwrap_or_default();
                    format!("not loaded of {file}: {}", words::some_of(&rows, 3, count))
                });
                let fired = outcome.get("fired") == Some(&Value::Bool(true));
                let fired = fired.then(|| {
                    "triggers fired once more for what came in; with GRANT SET ON PARAMETER session_replication_role TO the role they do not"
                        .to_owned()
                });
                words.chain(fired).collect()
            }
            Step::Prune(_) => {
                joined("not_removed").into_iter().map(|texts| format!("not removed: {texts}")).collect()
            }
            Step::Backup(_) => {
                let left_out = texts(outcome, "left_out");
                let left_out =
                    (!left_out.is_empty()).then(|| format!("left out: {}", words::some(&left_out, 3)));
                let untracked = outcome.get("untracked").and_then(Value::as_u64).filter(|count| *count > 0);
                let untracked = untracked.map(|count| {
                    format!("{} unknown to git, not in uncommitted.diff", words::counted(count, "file"))
                });
                left_out.into_iter().chain(untracked).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Tells what came of undoing the step; empty when there was nothing to undo.
    pub fn undo_words(&self, outcome: &Value) -> String {
        let flag = |key: &str| outcome.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| outcome.get(key).and_then(Value::as_str).unwrap_or_default();
        match self {
            Step::Shift(shift) => match (shift.live, outcome.get("switch_ms").and_then(Value::as_f64)) {
                (Some((slot, _)), Some(ms)) => format!("all traffic on {slot}, {ms:.1} ms"),
                _ => String::new(),
            },
            Step::Watch(watch) => match (watch.live, outcome.get("switch_ms").and_then(Value::as_f64)) {
                (Some((slot, _)), Some(ms)) => format!("all traffic on {slot}, {ms:.1} ms"),
                _ => String::new(),
            },
            Step::StartSlot(start) => format!("{} stopped", start.slot),
            Step::Capture(_) => still_whole(outcome).unwrap_or_default(),
            Step::Migrate(_) if flag("kept") => {
                let part = match (text("half_applied"), text("perhaps_in_part")) {
                    ("", "") => String::new(),
                    ("", name) => format!(", {name} perhaps in part"),
                    (half, _) => format!(", {half} in part"),
                };
                let not_reversed = match text("not_reversed") {
                    "" => String::new(),
                    why => format!("; nor was it taken back by its down migration: {why}"),
                };
                let why = text("why");
                format!("the migration stays{part}: {why}{}{not_reversed}", not_followed(outcome))
            }
            Step::Migrate(_) if flag("reversed") => {
                let mut words = "taken back by its down migration, with every row".to_owned();
                match outcome.get("refilled").and_then(Value::as_u64).unwrap_or(0) {
                    0 => {}
                    rows => words
                        .push_str(&format!("; {} filled again from the backup", words::counted(rows, "row"))),
                }
                words.push_str(&after(outcome));
                match &texts(outcome, "differs")[..] {
                    [] => {}
                    differs => words.push_str(&format!("; not as before: {}", words::some(differs, 3))),
                }
                words
            }
            Step::Migrate(_) if flag("rewound") => {
                let written = outcome.get("carried_back").and_then(Value::as_u64);
                let mut words = match (text("replaced"), written) {
                    ("", _) => "rewound to the backup, which holds every row".to_owned(),
                    (name, Some(written)) => format!(
                        "the old structure is back, with every write since the backup ({}); the database it replaced is kept as {name}",
                        words::counted(written, "write")
                    ),
                    (name, None) => {
                        format!("rewound to the backup; the database it replaced is kept as {name}")
                    }
                };
                words.push_str(&not_followed(outcome));
                words.push_str(&after(outcome));
                words.push_str(&older(outcome));
                let bound = texts(outcome, "bound");
                if !bound.is_empty() {
                    words.push_str(&format!(
                        "; {} stayed with the database it replaced: set up anew what hangs on it",
                        words::some(&bound, 3)
                    ));
                }
                words
            }
            Step::Migrate(_) if flag("nothing_applied") => "nothing had been applied".into(),
            Step::CloneData(_) if outcome.is_object() => {
                let back =
                    if flag("existed") { "the database before is back" } else { "no database, as before" };
                match text("kept") {
                    "" => back.to_owned(),
                    kept => format!("{back}; this release's is kept as {kept} ({})", text("why")),
                }
            }
            Step::Proof(_) | Step::Rehearse(_) | Step::Fresh(_) | Step::MigrateCopy(_) if flag("dropped") => {
                "copy dropped".into()
            }
            Step::PutInPlace(_) if flag("back") => match text("kept") {
                "" => "the database before is back".into(),
                kept => format!(
                    "the database before is back; the older one is kept as {kept}, with what was written into it"
                ),
            },
            Step::Unpack(_) if flag("removed") => "the unpacked files are removed".into(),
            Step::Backup(_) if outcome.get("kept").is_some() => "the backup is kept".into(),
            Step::Upload(_) if outcome.get("kept").is_some() => "the store's copy is kept".into(),
            Step::Upload(_) if !text("left").is_empty() => {
                format!("the unfinished copy stays until it is too old: {}", text("left"))
            }
            _ => String::new(),
        }
    }
}

impl State {
    /// Returns what a rollback to an older database loses, as far as it was counted.
    pub fn lost(&self) -> Option<Lost> {
        let mut steps = self.plan.steps.iter().zip(&self.steps).rev();
        steps.find_map(|(planned, step)| match planned.step {
            Step::PutInPlace(_) if step.undo_outcome.is_none() => {
                Lost::deserialize(step.outcome.as_ref()?.get("lost")?).ok()
            }
            // A note comes with every count, whatever became of it.
            Step::PutInPlace(_) => {
                Lost::deserialize(step.note.as_ref()?.get("lost")?).ok().map(Lost::without_file)
            }
            Step::CountLoss(_) => Lost::deserialize(step.note.as_ref()?).ok(),
            _ => None,
        })
    }

    /// Says how the release's migrations go back, and what that does not bring back; nothing before they were rehearsed.
    pub fn way_back(&self) -> Vec<String> {
        self.rehearsed_way_back().map_or_else(Vec::new, |way_back| {
            let lacking = way_back.lacking.iter().map(|lacking| format!("  {lacking}"));
            std::iter::once(way_back.words()).chain(way_back.more()).chain(lacking).collect()
        })
    }

    /// Says why later writes cannot go along when the release's migrations go back.
    pub fn not_followed(&self) -> Option<String> {
        let way_back = self.rehearsed_way_back()?;
        if way_back.lacking.is_empty() { way_back.not_followed } else { Some(way_back.lacking.join("; ")) }
    }

    fn rehearsed_way_back(&self) -> Option<WayBack> {
        let mut steps = self.plan.steps.iter().zip(&self.steps);
        steps.find_map(|(planned, step)| match planned.step {
            Step::Rehearse(_) => WayBack::deserialize(step.outcome.as_ref()?.get("way_back")?).ok(),
            _ => None,
        })
    }

    /// Returns the names of the databases that the release has left beside the live one, for a person to look at and drop.
    pub fn kept_databases(&self) -> Vec<&str> {
        let steps = self.plan.steps.iter().zip(&self.steps);
        let kept = steps.flat_map(|(planned, step)| {
            let undone = |key: &str| step.undo_outcome.as_ref()?.get(key)?.as_str();
            match planned.step {
                Step::Migrate(_) => undone("replaced").into_iter().collect(),
                Step::CloneData(_) => undone("kept").into_iter().collect(),
                Step::PutInPlace(_) if step.undo_outcome.is_some() => undone("kept").into_iter().collect(),
                Step::PutInPlace(_) => step
                    .outcome
                    .as_ref()
                    .and_then(|outcome| outcome.get("replaced")?.as_str())
                    .into_iter()
                    .collect(),
                Step::DropCopies(_) => {
                    let kept = step.outcome.as_ref().and_then(|outcome| outcome.get("kept")?.as_array());
                    kept.into_iter().flatten().filter_map(|kept| kept.get("name")?.as_str()).collect()
                }
                _ => Vec::new(),
            }
        });
        kept.collect()
    }
}

/// Tells where what was lost is, and what did not come along.
fn put_in_place(outcome: &Value) -> Vec<String> {
    let number = |key: &str| outcome.get(key).and_then(Value::as_u64).unwrap_or(0);
    let lost = outcome.get("lost").and_then(|lost| Lost::deserialize(lost).ok());
    let file = lost.and_then(|lost| lost.file);
    let rows = file.map(|file| {
        format!("{} of the database before in {}", words::counted(number("rows"), "row"), file.display())
    });
    let bound = texts(outcome, "bound");
    let bound = (!bound.is_empty()).then(|| {
        format!(
            "{} stayed with the database it replaced: set up anew what hangs on it",
            words::some(&bound, 3)
        )
    });
    rows.into_iter().chain(bound).collect()
}

pub(super) fn texts(outcome: &Value, key: &str) -> Vec<String> {
    let texts = outcome.get(key).and_then(Value::as_array).into_iter().flatten();
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Tells what else came of a database's way back.
fn after(outcome: &Value) -> String {
    let mut words = String::new();
    if let Some(rescued) = outcome.get("rescued").filter(|rescued| rescued.is_object()) {
        let number = |key: &str| rescued.get(key).and_then(Value::as_u64).unwrap_or(0);
        words.push_str(&format!(
            "; what {} that had no place before is in {}, for the next attempt",
            words::doing(number("rows") + number("values"), "row", "holds", "hold"),
            rescued.get("file").and_then(Value::as_str).unwrap_or_default()
        ));
    }
    match outcome.get("cut_off").and_then(Value::as_u64).unwrap_or(0) {
        0 => {}
        count => words.push_str(&format!("; {} cut off", words::counted(count, "request"))),
    }
    if outcome.get("hold_lapsed").and_then(Value::as_bool) == Some(true) {
        words.push_str("; it took longer than requests could wait");
    }
    words
}

/// Tells why later writes did not go along.
fn not_followed(outcome: &Value) -> String {
    let why = outcome.get("not_followed").and_then(Value::as_str);
    why.map_or_else(String::new, |why| format!("; later writes could not be carried back: {why}"))
}

/// Tells which rows are not in the live database as they were written last.
fn older(outcome: &Value) -> String {
    let tables = outcome.get("older").and_then(Value::as_array).into_iter().flatten();
    let words = tables.map(|older| {
        let text = |key: &str| older.get(key).and_then(Value::as_str);
        let rows = older.get("rows").and_then(Value::as_u64).unwrap_or(0);
        let replaced = || outcome.get("replaced").and_then(Value::as_str).unwrap_or_default();
        format!(
            "; of {} the live database has {} as before, or not at all: as written last, which the old structure does not hold, {} in {}",
            text("table").unwrap_or_default(),
            words::counted(rows, "row"),
            if rows == 1 { "it is" } else { "they are" },
            text("file").unwrap_or_else(replaced),
        )
    });
    words.collect()
}

/// Tells what a copy reaches, or has not got, other than its original.
fn not_copied(outcome: &Value) -> Option<String> {
    let taken = outcome.get("neutralised").and_then(|taken| Neutralised::deserialize(taken).ok());
    match taken {
        Some(taken) if !taken.open_servers.is_empty() => Some(format!(
            "what is read without a log-in is read through the copy as well: foreign server {}",
            taken.open_servers.join(", ")
        )),
        None if outcome.get("without_cron").and_then(Value::as_bool) == Some(true) => Some(
            "without pg_cron, its jobs and its schema: only the database that cron.database_name names can have it"
                .into(),
        ),
        _ => None,
    }
}

fn migrations(outcome: &Value) -> String {
    let names = texts(outcome, "migrations");
    if names.is_empty() { "no migration pending".into() } else { names.join(", ") }
}
