use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One thing that a transaction did to a table, with the names that were valid at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A row came.
    Insert {
        /// The table: a leaf, where it is a partition.
        table: Arc<Name>,
        /// The row.
        new: Tuple,
    },
    /// A row changed.
    Update {
        /// The table.
        table: Arc<Name>,
        /// What identified the row before, where that changed; the whole row with `REPLICA IDENTITY FULL`.
        old: Option<Tuple>,
        /// The row.
        new: Tuple,
    },
    /// A row went.
    Delete {
        /// The table.
        table: Arc<Name>,
        /// What identified it; `None` for a table without a replica identity.
        old: Option<Tuple>,
    },
    /// All rows of these tables went.
    Truncate {
        /// The tables.
        tables: Vec<Arc<Name>>,
    },
}

impl Change {
    /// Returns how many bytes its values have.
    pub fn size(&self) -> usize {
        let size = |tuple: &Tuple| tuple.values.iter().map(Value::size).sum();
        match self {
            Self::Insert { new, .. } => size(new),
            Self::Update { old, new, .. } => old.as_ref().map_or(0, size) + size(new),
            Self::Delete { old, .. } => old.as_ref().map_or(0, size),
            Self::Truncate { .. } => 0,
        }
    }
}

/// A table's schema and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
}

/// What the stream tells of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Its columns, in the table's order, with the generated ones; of what was before only those that are not NULL, and without a
    /// full identity only the key's. Rows of the same columns share one list, by which whoever reads many may know them.
    pub columns: Arc<[Column]>,
    /// The value of each; that of a generated column that is not stored is NULL.
    pub values: Vec<Value>,
}

/// A column's name and type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type, as `format_type` writes it without a modifier and with an empty search path: `character varying`, `public.mood[]`.
    pub type_name: String,
}

/// What the stream tells of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// The text that the type's output function makes under pinned settings and with an empty search path.
    Text(String),
    /// As it was: a large value that lies outside of the row, and that an UPDATE did not touch.
    Unchanged,
}

impl Value {
    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Null | Self::Unchanged => 0,
        }
    }
}
