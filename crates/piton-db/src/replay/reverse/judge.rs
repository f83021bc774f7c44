//! What the layouts before and after a migration tell about taking it back in place.

use super::super::layout::{Column, Generated, Layout, Table};
use super::super::map::Way;
use super::super::offer::is_kin;
use super::{Narrowed, Refill, Reverse, Saved};
use crate::migrate::RecordTables;

/// A table that goes on.
pub(super) struct Goes<'a> {
    pub(super) before: &'a Table,
    pub(super) after: &'a Table,
    /// The columns that go on and are written, before and after.
    pub(super) columns: Vec<(&'a Column, &'a Column)>,
}

/// Lists what goes on: the copy is a copy of the golden copy's files, so that a table has the number that it had.
///
/// The error is the reason why the migration cannot be taken back in place.
pub(super) fn goes_on<'a>(
    before: &'a Layout,
    after: &'a Layout,
    record: &RecordTables,
) -> Result<Vec<Goes<'a>>, String> {
    let own = before.tables.iter().filter(|table| !record.covers(&table.schema, &table.name));
    own.map(|table| {
        let Some(live) = after.table(table.oid) else {
            return Err(format!(
                "it removes {}, and what is written there between the backup and the migration cannot be seen afterwards",
                table.quoted()
            ));
        };
        let written = table.columns.iter().filter(|column| column.generated == Generated::No);
        let columns = written.filter_map(|column| Some((column, live.numbered(column.number)?)));
        Ok(Goes { before: table, after: live, columns: columns.collect() })
    })
    .collect()
}

/// Decides what has to be filled again, saved and looked at; the error is the reason why it is not to be done.
pub(super) fn judge(goes: &[Goes<'_>], after: &Layout, record: &RecordTables) -> Result<Reverse, String> {
    let mut reverse = Reverse::default();
    for one in goes.iter().filter(|one| one.before.root.is_none()) {
        narrow(one, &mut reverse)?;
        let key = key_of(one);
        let went = |column: &&Column| {
            column.generated == Generated::No && one.after.numbered(column.number).is_none()
        };
        let gone: Vec<&Column> = one.before.columns.iter().filter(went).collect();
        let came = |column: &&Column| {
            column.generated == Generated::No && one.before.numbered(column.number).is_none()
        };
        let new: Vec<&Column> = one.after.columns.iter().filter(came).collect();
        if gone.is_empty() && new.is_empty() {
            continue;
        }
        let Some(key) = key else {
            return Err(format!(
                "no key of {} goes on, by which its rows would be known",
                one.before.quoted()
            ));
        };
        if !gone.is_empty() {
            let typed = |column: &Column| (column.name.clone(), column.full.clone());
            reverse.refill.push(Refill {
                table: one.before.quoted(),
                columns: gone.into_iter().map(typed).collect(),
                key: key.iter().map(|(before, _)| typed(before)).collect(),
                migrated: one.after.quoted(),
            });
        }
        if !new.is_empty() {
            let key = key.iter().map(|(_, after)| after.name.clone()).collect();
            reverse.rescue.push(saved(one.after, &new, key, false));
        }
    }
    let is_new = |table: &&Table| {
        table.root.is_none()
            && goes.iter().all(|one| one.after.oid != table.oid)
            && !record.covers(&table.schema, &table.name)
    };
    for table in after.tables.iter().filter(is_new) {
        let Some(key) = table.keys.first() else {
            return Err(format!(
                "the new table {} has no key, by which its rows would be saved",
                table.quoted()
            ));
        };
        let columns: Vec<&Column> =
            table.columns.iter().filter(|column| column.generated == Generated::No).collect();
        reverse.rescue.push(saved(table, &columns, key.clone(), true));
    }
    Ok(reverse)
}

/// Looks at the types of what goes on.
fn narrow(one: &Goes<'_>, reverse: &mut Reverse) -> Result<(), String> {
    for (before, after) in &one.columns {
        if before.full == after.full && before.made_of == after.made_of && after.generated == Generated::No {
            continue;
        }
        if after.generated != Generated::No || !is_kin(before, after) || before.made_of != after.made_of {
            return Err(format!(
                "{} was {} and is {}, and no row shows what becomes of a later value",
                Way::column(one.before, before),
                before.full,
                if after.generated == Generated::No { &after.full } else { "computed" }
            ));
        }
        reverse.narrowed.push(Narrowed {
            table: one.after.quoted(),
            column: after.name.clone(),
            before: before.full.clone(),
            after: after.full.clone(),
        });
    }
    Ok(())
}

fn saved(table: &Table, columns: &[&Column], key: Vec<String>, whole: bool) -> Saved {
    Saved {
        schema: table.schema.clone(),
        table: table.name.clone(),
        columns: columns.iter().map(|column| column.name.clone()).collect(),
        key,
        whole,
    }
}

/// Returns a key that is one before and after, column by column.
fn key_of<'a>(one: &Goes<'a>) -> Option<Vec<(&'a Column, &'a Column)>> {
    one.before.keys.iter().find_map(|key| {
        let pairs: Vec<(&Column, &Column)> = key
            .iter()
            .map(|name| one.columns.iter().find(|(before, _)| before.name == *name).copied())
            .collect::<Option<_>>()?;
        let mut names: Vec<&str> = pairs.iter().map(|(_, after)| after.name.as_str()).collect();
        names.sort_unstable();
        let is_it = |key: &&Vec<String>| {
            let mut key: Vec<&str> = key.iter().map(String::as_str).collect();
            key.sort_unstable();
            key == names
        };
        one.after.keys.iter().find(is_it).map(|_| pairs)
    })
}

/// Says what of the golden copy's tables is not itself any more after the down migration; what is made anew has lost its rows once.
pub(super) fn made_anew(
    before: &Layout,
    goes: &[Goes<'_>],
    down: &Layout,
    record: &RecordTables,
) -> Option<String> {
    for one in goes {
        let name = one.before.quoted();
        let Some(table) = down.table(one.before.oid) else {
            return Some(format!("the down migration makes {name} anew"));
        };
        for (column, _) in &one.columns {
            if table.numbered(column.number).is_none_or(|now| now.name != column.name) {
                return Some(format!("the down migration makes {} anew", Way::column(one.before, column)));
            }
        }
    }
    let own = before.sequences.iter().filter(|one| !record.covers(&one.schema, &one.name));
    let gone = own.into_iter().find(|one| down.sequences.iter().all(|now| now.oid != one.oid))?;
    Some(format!(
        "the down migration makes the sequence {}.{} anew, and it counts from its beginning",
        gone.schema, gone.name
    ))
}
