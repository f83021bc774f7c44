//! A migration taken back in place by its own down migration, where that was rehearsed and found to restore what was there.
//!
//! A [`Trial`] tries it on the rehearsal's copy: which columns have to be filled again from the golden copy, what a down migration
//! destroys and a rescue file has to keep, and every reason why later rows could be lost by it. On the live database [`Held`] keeps
//! the tables that lose something from being written while the file is written and the down migration runs.
//!
//! Which rows are older than the backup is told by their `xmin`: what is filled again is a row that nobody has written since, and
//! what is saved is a row that somebody has. Both are so however often they are done.

mod held;
mod judge;
mod rows;
mod trial;

use serde::{Deserialize, Serialize};

use crate::quote;

pub use self::held::{Held, let_go};
pub use self::rows::refill;
pub use self::trial::Trial;

/// The schema of what is put into a database for as long as a migration goes back in place.
const SCHEMA: &str = "piton_reverse";

/// How a migration goes back in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverse {
    /// Columns that the migration removes, and that are filled again from the golden copy.
    pub refill: Vec<Refill>,
    /// What the down migration destroys, and a rescue file keeps.
    pub rescue: Vec<Saved>,
    /// Columns whose values go back into a narrower type.
    pub narrowed: Vec<Narrowed>,
    /// How long the down migrations took, with what is looked at before and filled again behind them, in milliseconds.
    pub ms: u64,
}

/// Columns of one table to be filled again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refill {
    /// The table as it was before, quoted.
    pub table: String,
    /// Its columns, with their types.
    pub columns: Vec<(String, String)>,
    /// The columns that name a row, with their types.
    pub key: Vec<(String, String)>,
    /// What the migration calls the table, quoted.
    pub(super) migrated: String,
}

/// A new table, or new columns of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The table's schema.
    pub schema: String,
    /// The table, as the migration has left it.
    pub table: String,
    /// The columns that are saved.
    pub columns: Vec<String>,
    /// The columns that name a row.
    pub key: Vec<String>,
    /// Whether the whole table is new.
    pub whole: bool,
}

/// A column whose type the down migration makes what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Narrowed {
    /// The table, as the migration has left it, quoted.
    pub table: String,
    /// The column.
    pub column: String,
    /// The type of before.
    pub before: String,
    /// The type that the migration gives it.
    pub after: String,
}

impl Saved {
    fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.table)
    }
}

impl Reverse {
    /// Lists the tables, quoted, of which something could be lost while the migration goes back.
    fn tables(&self) -> Vec<String> {
        let saved = self.rescue.iter().map(Saved::quoted);
        let refilled = self.refill.iter().map(|refill| refill.migrated.clone());
        let mut tables: Vec<String> =
            saved.chain(refilled).chain(self.narrowed.iter().map(|one| one.table.clone())).collect();
        tables.sort();
        tables.dedup();
        tables
    }

    /// Counts the columns that are filled again.
    pub fn refilled(&self) -> u64 {
        self.refill.iter().map(|refill| refill.columns.len() as u64).sum()
    }

    /// Says what going back costs, a line for each thing.
    pub fn costs(&self) -> Vec<String> {
        let mut costs = Vec::new();
        for refill in &self.refill {
            let columns: Vec<&str> = refill.columns.iter().map(|(name, _)| name.as_str()).collect();
            costs.push(format!(
                "{} of {} has the backup's values, and goes back by itself only while nobody has written to its table since",
                columns.join(", "),
                refill.table
            ));
        }
        for saved in &self.rescue {
            let what = match saved.whole {
                true => "rows".to_owned(),
                false => format!("values of {}", saved.columns.join(", ")),
            };
            costs.push(format!(
                "{what} that somebody writes into {} go to a file for the next attempt",
                saved.quoted()
            ));
        }
        costs
    }
}
