//! The net effect of many changes: one for each row.

use std::collections::{BTreeSet, HashMap};

/// What a row's column becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// What it is.
    Kept,
    Null,
    Text(String),
    /// What it is computed from, before that is done.
    Inputs(Vec<Cell>),
}

impl Cell {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Inputs(inputs) => inputs.iter().map(Self::size).sum(),
            Self::Kept | Self::Null => 0,
        }
    }

    /// Takes over what is told anew.
    fn become_told(&mut self, told: Self) {
        match (self, told) {
            (_, Self::Kept) => {}
            (Self::Inputs(inputs), Self::Inputs(told)) => {
                inputs.iter_mut().zip(told).for_each(|(input, told)| input.become_told(told));
            }
            (cell, told) => *cell = told,
        }
    }
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fate {
    /// It goes. First, because it may hold what another one takes.
    Gone,
    /// It is changed where it is.
    Patched,
    /// It stands as told, whether or not it was there.
    Put,
}

/// The net effect on one row.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    pub(super) fate: Fate,
    /// How the cells are to be read.
    pub(super) form: usize,
    /// One for each column of the place.
    pub(super) cells: Vec<Cell>,
    /// The columns that held another value in between: what they hold in the end was written.
    pub(super) rewritten: BTreeSet<usize>,
    /// Whether it is another row than the one that had its key before: nothing of that one stays.
    pub(super) replaces: bool,
    /// When it was last touched, for those that have to be done in order.
    pub(super) order: u64,
}

impl Effect {
    /// Returns how many bytes its cells have.
    pub(super) fn size(&self) -> usize {
        self.cells.iter().map(Cell::size).sum()
    }

    pub(super) fn new(fate: Fate, form: usize, cells: Vec<Cell>, order: u64) -> Self {
        Self { fate, form, cells, rewritten: BTreeSet::new(), replaces: false, order }
    }
}

/// A row's key: its columns' texts, which hold no NUL, with a NUL between them.
pub(super) type Key = String;

/// Joins the columns of a key; `None` when one of them is not known.
pub(super) fn key_of(cells: &[Cell], key: &[usize]) -> Option<Key> {
    let mut joined = String::new();
    for (at, column) in key.iter().enumerate() {
        if at > 0 {
            joined.push('\0');
        }
        joined.push_str(cells[*column].text()?);
    }
    Some(joined)
}

/// Takes a key apart.
pub(super) fn parts(key: &str) -> impl Iterator<Item = &str> {
    key.split('\0')
}

/// The net effects on one place.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) rows: HashMap<Key, Effect>,
}

impl Net {
    /// Adds a change to a row; what is told anew takes the place of what was told before.
    pub(super) fn add(&mut self, key: Key, effect: Effect) {
        let Some(before) = self.rows.get_mut(&key) else {
            self.rows.insert(key, effect);
            return;
        };
        before.order = effect.order;
        match (before.fate, effect.fate) {
            // A row that came or was changed, and is changed again.
            (Fate::Put | Fate::Patched, Fate::Patched) => {
                for (at, (cell, new)) in before.cells.iter_mut().zip(effect.cells).enumerate() {
                    if new != Cell::Kept {
                        if *cell != Cell::Kept && *cell != new {
                            before.rewritten.insert(at);
                        }
                        cell.become_told(new);
                    }
                }
            }
            // Nothing can be changed in a row that is not there.
            (Fate::Gone, Fate::Patched) => {}
            _ => {
                let replaces = effect.fate == Fate::Put && (before.fate == Fate::Gone || before.replaces);
                *before = Effect { replaces, ..effect };
            }
        }
    }

    /// Tells whether the row's cells were told in another form, and cannot be joined with new ones.
    pub(super) fn speaks_otherwise(&self, key: &str, form: usize) -> bool {
        self.rows.get(key).is_some_and(|effect| effect.fate != Fate::Gone && effect.form != form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(fate: Fate, cells: [Option<&str>; 2]) -> Effect {
        let cell = |text: Option<&str>| text.map_or(Cell::Kept, |text| Cell::Text(text.into()));
        Effect::new(fate, 0, cells.map(cell).to_vec(), 0)
    }

    fn net(effects: &[Effect]) -> (Fate, Vec<Option<String>>) {
        let mut net = Net::default();
        for effect in effects {
            net.add("1".into(), effect.clone());
        }
        let effect = &net.rows["1"];
        (effect.fate, effect.cells.iter().map(|cell| cell.text().map(str::to_owned)).collect())
    }

    #[test]
    fn of_many_changes_to_a_row_the_last_of_each_column_counts() {
        use Fate::{Gone, Patched, Put};
        let row = |a: &str, b: &str| vec![Some(a.to_owned()), Some(b.to_owned())];
        let (put, patch) = (effect(Put, [Some("a"), Some("b")]), effect(Patched, [None, Some("c")]));
        let gone = effect(Gone, [None, None]);
        assert_eq!(net(&[put.clone(), patch.clone()]), (Put, row("a", "c")));
        assert_eq!(net(&[patch.clone(), effect(Patched, [Some("d"), None])]), (Patched, row("d", "c")));
        assert_eq!(net(&[put.clone(), gone.clone()]).0, Gone);
        assert_eq!(net(&[gone.clone(), put.clone()]), (Put, row("a", "b")));
        assert_eq!(net(&[put.clone(), gone.clone(), patch.clone()]).0, Gone);
        let replaces = |effects: &[Effect]| {
            let mut net = Net::default();
            effects.iter().for_each(|effect| net.add("1".into(), effect.clone()));
            net.rows["1"].replaces
        };
        assert!(replaces(&[patch.clone(), gone.clone(), put.clone(), patch.clone()]));
        assert!(!replaces(&[put.clone(), patch]) && !replaces(&[gone.clone(), put, gone]));
    }

    #[test]
    fn a_key_is_taken_apart_as_it_was_joined() {
        let cells = [Cell::Text("x,y".into()), Cell::Null, Cell::Text(String::new())];
        let key = key_of(&cells, &[2, 0]).unwrap();
        assert_eq!(parts(&key).collect::<Vec<_>>(), ["", "x,y"]);
        assert_eq!(key_of(&cells, &[0, 1]), None);
    }
}
