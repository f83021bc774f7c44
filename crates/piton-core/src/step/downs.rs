//! What piton.toml says of columns that a migration gives another meaning: held against the commit and the database.

use piton_db::Database;
use piton_db::migrate::Migration;
use piton_db::replay::{ChangedColumn, Down, Misfit};

use crate::config::{Settings, nearest};
use crate::facts;
use crate::fault::{Fault, OrFault};
use crate::words;

/// How many names are told that could have been meant.
const TOLD: usize = 6;

/// What is wrong with one expression, and the line that mends it.
struct Wrong {
    why: String,
    mend: String,
}

/// Wants each down expression to be one of a migration that is somewhere, and those of pending ones to fit the database.
pub(super) async fn downs_guard(
    settings: &Settings,
    source: &Settings,
    commit: &str,
    database: &Database,
) -> Result<(), Fault> {
    let Some(own) = settings.database.as_ref().filter(|own| !own.downs.is_empty()) else { return Ok(()) };
    // What cannot be looked at is for another guard to tell.
    let Ok(Some(pending)) = facts::pending(settings, source, commit).await else { return Ok(()) };
    let (names, tool) = (&pending.names, &pending.look.migrations.tool);
    if names.is_empty() {
        return Ok(());
    }
    let unreadable = || format!("{database} cannot be read");
    let mut known = pending.look.migrations.status(database).await.or_fault(unreadable)?;
    if let Some(migrations) = &own.migrations {
        // piton.toml is the folder's, and may be ahead of the commit.
        let here = migrations.within(&settings.root).status(database).await;
        known.extend(here.unwrap_or_default());
    }
    let mut wrong = Vec::new();
    for down in &own.downs {
        if names.contains(&down.migration) {
            let misfit = down.misfit(database).await.or_fault(unreadable)?;
            wrong.extend(misfit.map(|misfit| in_words(down, misfit)));
        } else if tool.has_all_files() && !is_known(&known, down) {
            wrong.push(nowhere(down, names));
        }
    }
    refuse(&wrong).map_or(Ok(()), Err)
}

/// Says which expressions are of migrations that neither ran nor are recorded; where no file tells, only a rehearsal shows it.
pub(super) fn unknown(downs: &[Down], ran: &[String], recorded: &[String]) -> Option<Fault> {
    let is_known = |down: &&Down| ran.contains(&down.migration) || recorded.contains(&down.migration);
    let unknown = downs.iter().filter(|down| !is_known(down));
    let unknown: Vec<Wrong> = unknown.map(|down| nowhere(down, ran)).collect();
    let fault = refuse(&unknown)?;
    Some(Fault { kind: crate::fault::Kind::Release, ..fault })
}

fn is_known(known: &[Migration], down: &Down) -> bool {
    known.iter().any(|known| known.name == down.migration)
}

fn refuse(wrong: &[Wrong]) -> Option<Fault> {
    if wrong.is_empty() {
        return None;
    }
    let mut fault = Fault::refused("[[database.down]] in piton.toml cannot be meant so");
    fault.why = wrong.iter().map(|wrong| wrong.why.clone()).collect();
    let mends: Vec<&str> = wrong.iter().map(|wrong| wrong.mend.as_str()).collect();
    Some(fault.hint(format!("write {}", mends.join("; and "))))
}

fn nowhere(down: &Down, pending: &[String]) -> Wrong {
    Wrong {
        why: format!(
            "of {}: neither the commit nor the database's record has a migration of that name, so that it would never be used",
            down.migration
        ),
        mend: format!("{}, or take it out", line("migration", &down.migration, pending)),
    }
}

fn in_words(down: &Down, misfit: Misfit) -> Wrong {
    let Down { migration, table, column, is } = down;
    let qualified = || if table.contains('.') { table.clone() } else { format!("public.{table}") };
    match misfit {
        Misfit::Table { known } => Wrong {
            why: format!("of {migration}: before it, there is no table {table}"),
            mend: line("table", &qualified(), &known),
        },
        Misfit::Column { known } => Wrong {
            why: format!("of {migration}: before it, {table} has no column {column}"),
            mend: line("column", column, &known),
        },
        Misfit::Expression { said } => Wrong {
            why: format!("of {migration}, for {table}.{column}: `{is}` is no expression: {said}"),
            mend: "is = \"an SQL expression over the row as it is afterwards\", like amount_cents / 100.0"
                .into(),
        },
    }
}

/// Returns the line that would be right, or from what it may be chosen.
fn line(key: &str, written: &str, known: &[String]) -> String {
    match nearest(written, known.iter().map(String::as_str)) {
        Some(near) => format!("{key} = \"{near}\""),
        None => format!("for {key} one of: {}", words::some(known, TOLD)),
    }
}

/// Returns the lines of piton.toml that would let later writes go along, where only the meaning of a column keeps them from it.
pub(super) fn wanted(changed: &ChangedColumn, migrations: &[String]) -> Vec<String> {
    let Some((last, others)) = migrations.split_last() else { return Vec::new() };
    let others = match others {
        [] => String::new(),
        others => format!("   # or what changes it of {}", words::some(others, TOLD)),
    };
    vec![
        "[[database.down]]".into(),
        format!("migration = {}{others}", quoted(last)),
        format!("table = {}", quoted(&changed.table)),
        format!("column = {}", quoted(&changed.column)),
        "is = \"…\"   # the old value, as an SQL expression over the row as it is afterwards".into(),
    ]
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
