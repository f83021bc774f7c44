//! What a change of the stream means, with the layouts that are valid where it stands.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::layout::{Column, Generated, Table};
use super::map::{Map, Mapped, Place, Target, fits};
use super::net::{Cell, Key};
use super::rescue::{NewIn, new_in};
use crate::DbError;
use crate::capture::{self, Lsn, Name, Tuple, Value};

/// How the values of a live column become those of the golden one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Conversion {
    /// The text is the same.
    Same,
    /// By a cast of the live type, whose loss is looked for.
    Cast {
        /// The live type.
        bare: String,
        /// The live type with its modifier.
        full: String,
        /// Whether the golden type can be cast to it, too.
        back: bool,
    },
    /// The text is read anew.
    Text,
    /// It is computed from several columns first.
    Down {
        /// The statement that does so.
        sql: String,
        /// How what comes of it is written.
        of: Box<Conversion>,
    },
}

impl Conversion {
    /// Returns how the text of a value is written.
    pub(super) fn of_text(&self) -> &Self {
        match self {
            Self::Down { of, .. } => of,
            other => other,
        }
    }
}

/// How each column of a place is written; `None` for what has no source.
pub(super) type Form = Vec<Option<Conversion>>;

/// Pairs of types of which the first can be cast to the second.
pub(super) type Castable = HashSet<(String, String)>;

/// What rows of certain columns mean.
#[derive(Debug)]
pub(super) enum Route {
    /// The tool's record.
    Record,
    /// Nothing that the golden copy has a place for.
    Nowhere { new: Option<New> },
    /// Rows of a place.
    Place {
        place: usize,
        form: usize,
        /// For each column of the place, where the row that the stream tells has it.
        sources: Vec<Told>,
        /// Whether nobody knows yet what the row means.
        is_unclear: bool,
        new: Option<New>,
    },
}

impl Route {
    /// Returns what is new in the rows.
    pub(super) fn what_is_new(&self) -> Option<&New> {
        match self {
            Self::Record => None,
            Self::Nowhere { new } | Self::Place { new, .. } => new.as_ref(),
        }
    }
}

/// Where a row has what becomes of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nowhere,
    Here(usize),
    /// It is computed from these, as far as the row has them.
    From(Vec<Option<usize>>),
}

impl Told {
    /// Returns the value, of a row whose columns are told by their places.
    pub(super) fn cell(&self, at: impl Fn(usize) -> Cell) -> Cell {
        match self {
            Self::Nowhere => Cell::Kept,
            Self::Here(here) => at(*here),
            Self::From(inputs) => {
                let input = |input: &Option<usize>| input.map_or(Cell::Kept, &at);
                let inputs: Vec<Cell> = inputs.iter().map(input).collect();
                // What it is computed from is as before, and so is it.
                let is_kept = !inputs.is_empty() && inputs.iter().all(|input| *input == Cell::Kept);
                if is_kept { Cell::Kept } else { Cell::Inputs(inputs) }
            }
        }
    }

    /// Lists the columns of a row that have to be there.
    fn columns(&self) -> Vec<usize> {
        match self {
            Self::Nowhere => Vec::new(),
            Self::Here(here) => vec![*here],
            Self::From(inputs) => inputs.iter().copied().flatten().collect(),
        }
    }

    /// Returns the same, where each column has another place.
    fn moved(&self, to: impl Fn(usize) -> Option<usize>) -> Self {
        match self {
            Self::Nowhere => Self::Nowhere,
            Self::Here(here) => to(*here).map_or(Self::Nowhere, Self::Here),
            Self::From(inputs) => Self::From(inputs.iter().map(|input| input.and_then(&to)).collect()),
        }
    }
}

/// What the rows of a live table mean at a place in the log.
#[derive(Clone, Debug)]
pub(super) struct Meant {
    pub(super) form: Form,
    /// For each column of the place, which of the table's columns become of it.
    pub(super) from: Vec<Told>,
    /// Whether nobody knows yet.
    pub(super) is_unclear: bool,
}

impl Meant {
    /// Lists the table's columns that are needed, and where in this list is what becomes of each column of the place.
    pub(super) fn needed(&self) -> (Vec<usize>, Vec<Told>) {
        let mut needed: Vec<usize> = self.from.iter().flat_map(Told::columns).collect();
        needed.sort_unstable();
        needed.dedup();
        let from = self.from.iter().map(|told| told.moved(|at| needed.binary_search(&at).ok())).collect();
        (needed, from)
    }
}

/// Which meaning the columns have that a migration gives another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Old,
    /// The migration has begun to change it.
    Unclear,
    New,
}

/// What of a row is new.
#[derive(Clone, Debug)]
pub(super) struct New {
    /// Its table.
    pub(super) oid: u32,
    /// Where the row that the stream tells has the columns of its key; `None` where nothing names it but itself.
    pub(super) key: Option<Vec<usize>>,
    /// Where it has the columns that are new, with their names; those of the key left out.
    pub(super) columns: Vec<(usize, String)>,
}

impl New {
    /// Finds what is new in the rows of a table that are told with these columns; `None` where it could not be saved.
    fn of(new: &NewIn<'_>, live: &Table, told: &[capture::Column]) -> Option<Self> {
        let position = |name: &String| told.iter().position(|told| told.name == *name);
        let key = match &new.key {
            Some(names) => Some(names.iter().map(position).collect::<Option<Vec<_>>>()?),
            None => None,
        };
        let column = |column: &&Column| Some((position(&column.name)?, column.name.clone()));
        Some(Self { oid: live.oid, key, columns: new.columns.iter().filter_map(column).collect() })
    }

    /// Returns the key of a row, which is empty where nothing names it; `None` where it is not told.
    pub(super) fn key_of(&self, tuple: &Tuple) -> Option<Key> {
        let part = |at: &usize| match &tuple.values[*at] {
            Value::Text(text) => Some(text.as_str()),
            Value::Null | Value::Unchanged => None,
        };
        let key = self.key.as_deref().unwrap_or_default();
        Some(key.iter().map(part).collect::<Option<Vec<_>>>()?.join("\0"))
    }
}

/// What is known of a table that was made after the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Later {
    /// `None` of one that was gone already.
    pub(super) oid: Option<u32>,
    /// The table with a place of which it was a partition, if it was any.
    pub(super) whole: Option<u32>,
}

/// How the rows of a table were read that was made after the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadAs {
    /// None was, under a name that no table had before.
    Nobody,
    /// As those of the table with a place of which it is a partition.
    Part,
    /// As those of a table of its own, which has no place.
    Another,
}

/// Finds routes, and knows which layout is valid.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) map: Map,
    castable: Castable,
    /// The transactions that changed a layout and were seen to commit.
    pub(super) seen: BTreeSet<u32>,
    /// All that change one.
    awaited: HashSet<u32>,
    /// The places with computed columns in which the migration was seen to write.
    pub(super) altered: BTreeSet<usize>,
    /// Whether the last stage is the migration's end.
    is_applied: bool,
    /// The last stage that is valid by its place in the log alone.
    passed: usize,
    /// Which table carries a name, and the stage at which it looks as it does.
    current: HashMap<Name, (usize, u32)>,
    /// Tables that were made after the migration, as they were when something was first read of them.
    pub(super) later: BTreeMap<Name, Later>,
    forms: Vec<Form>,
    known: HashMap<(usize, usize, bool), Known>,
}

/// A route, with what is known by its address, so that nothing else comes to lie there.
#[derive(Debug)]
struct Known {
    route: Arc<Route>,
    _kept: (Arc<Name>, Arc<[capture::Column]>),
}

impl Routes {
    pub(super) fn new(
        map: Map,
        castable: Castable,
        seen: BTreeSet<u32>,
        altered: BTreeSet<usize>,
        is_applied: bool,
        later: BTreeMap<Name, Later>,
    ) -> Self {
        let mut awaited = HashSet::new();
        for place in map.places.iter().filter(|place| !place.downs.is_empty()) {
            awaited.extend(&place.changed_by);
        }
        for stage in 1..map.stages.len() {
            for table in &map.stages[stage].tables {
                awaited.extend(makers(&map, stage, table));
            }
        }
        let (current, forms, known) = (HashMap::new(), Vec::new(), HashMap::new());
        let passed = 0;
        let mut routes =
            Self { map, castable, seen, awaited, altered, is_applied, passed, current, later, forms, known };
        routes.find_current();
        routes
    }

    pub(super) fn form(&self, form: usize) -> &Form {
        &self.forms[form]
    }

    /// Returns the number by which a form is known.
    pub(super) fn form_number(&mut self, form: Form) -> usize {
        self.forms.iter().position(|known| *known == form).unwrap_or_else(|| {
            self.forms.push(form);
            self.forms.len() - 1
        })
    }

    /// Takes note of how far the log is; tells whether another layout has become valid.
    pub(super) fn at(&mut self, lsn: Lsn) -> bool {
        let before = self.passed;
        while self.map.stages.get(self.passed + 1).is_some_and(|stage| stage.lsn < lsn) {
            self.passed += 1;
        }
        if self.passed > before {
            self.find_current();
        }
        self.passed > before
    }

    /// Tells whether a transaction has changed a layout, and so is the migration's.
    pub(super) fn changes_layout(&self, xid: u32) -> bool {
        self.awaited.contains(&xid)
    }

    /// Takes note of the commit of a transaction that changes a layout.
    pub(super) fn committed(&mut self, xid: u32) {
        if self.awaited.contains(&xid) && self.seen.insert(xid) {
            self.find_current();
        }
    }

    /// Takes note that the log has nothing more to tell.
    pub(super) fn end(&mut self) {
        self.passed = self.map.stages.len() - 1;
        self.find_current();
    }

    /// Takes note that the migration has written to a place.
    pub(super) fn altered(&mut self, place: usize) {
        if !self.map.places[place].downs.is_empty() && self.altered.insert(place) {
            self.known.clear();
        }
    }

    fn meaning(&self, place: usize) -> Meaning {
        let Place { downs, changed_by, .. } = &self.map.places[place];
        let begun = self.altered.contains(&place) || changed_by.iter().any(|xid| self.seen.contains(xid));
        // Whatever was seen of it: the log names no subtransaction, which the catalogue may, and a table may have been empty.
        let over = !self.migrates() && self.is_applied;
        if downs.is_empty() || !begun && !over {
            Meaning::Old
        } else if downs.values().all(|down| down.at_once) && begun || over {
            Meaning::New
        } else {
            Meaning::Unclear
        }
    }

    /// Tells what the rows of a live table mean here.
    pub(super) fn meant(&self, live: &Table, mapped: &Mapped) -> Meant {
        let place = &self.map.places[mapped.place];
        let meaning = self.meaning(mapped.place);
        let mut is_unclear = meaning == Meaning::Unclear;
        let mut form = form_of(&self.map, live, mapped, &self.castable);
        // A computed column of the key is not written, but names the row.
        let key = place.key.as_deref().unwrap_or_default();
        let mut from: Vec<Told> = (mapped.columns.iter().enumerate())
            .map(|(at, column)| {
                let column = column.filter(|_| form[at].is_some() || key.contains(&at));
                column.map_or(Told::Nowhere, Told::Here)
            })
            .collect();
        for (at, down) in place.downs.iter().filter(|_| meaning == Meaning::New) {
            let input = |name: &String| live.columns.iter().position(|column| column.name == *name);
            let inputs: Option<Vec<usize>> = down.inputs.iter().map(input).collect();
            is_unclear |= inputs.is_none();
            let of = conversion(&down.returns, &place.table.columns[*at], &self.castable);
            form[*at] = Some(Conversion::Down { sql: down.statement(live), of: Box::new(of) });
            from[*at] = Told::From(inputs.into_iter().flatten().map(Some).collect());
        }
        Meant { form, from, is_unclear }
    }

    /// Tells whether the log is still within the migration.
    pub(super) fn migrates(&self) -> bool {
        self.passed + 1 < self.map.stages.len()
    }

    fn find_current(&mut self) {
        self.known.clear();
        self.current.clear();
        let mut oids: Vec<u32> =
            self.map.stages.iter().flat_map(|stage| stage.tables.iter().map(|table| table.oid)).collect();
        oids.sort_unstable();
        oids.dedup();
        for oid in oids {
            if let Some((stage, table)) = self.valid(oid) {
                let name = Name { schema: table.schema.clone(), name: table.name.clone() };
                let entry = self.current.entry(name).or_insert((stage, oid));
                *entry = (*entry).max((stage, oid));
            }
        }
    }

    /// Finds the last stage whose layout of a table is valid here.
    fn valid(&self, oid: u32) -> Option<(usize, &Table)> {
        let mut valid = None;
        for (at, stage) in self.map.stages.iter().enumerate() {
            let reached = at <= self.passed;
            match stage.table(oid) {
                None if reached => valid = None,
                None => {}
                Some(table) => {
                    let before = at.checked_sub(1).and_then(|at| self.map.stages[at].table(oid));
                    let same = before.is_some_and(|before| before.looks_like(table));
                    let mut made = makers(&self.map, at, table).peekable();
                    let seen = made.peek().is_some() && made.all(|xid| self.seen.contains(&xid));
                    if !(reached || same && valid.is_some() || seen) {
                        break;
                    }
                    valid = Some((at, table));
                }
            }
        }
        valid
    }

    /// Finds what a change to a table means. `whole` tells whether its row has all columns, or its key alone.
    ///
    /// The layout that is valid by what was seen goes first. A statement that was half of a migration may have left the table looking
    /// as at no stage; then the columns have to be known from the stages on both sides.
    pub(super) fn find(
        &mut self,
        name: &Arc<Name>,
        columns: &Arc<[capture::Column]>,
        whole: bool,
    ) -> Result<Arc<Route>, DbError> {
        let address = (Arc::as_ptr(name).addr(), columns.as_ptr().addr(), whole);
        if let Some(known) = self.known.get(&address) {
            return Ok(known.route.clone());
        }
        let route = match self.table_of(name, columns, whole) {
            Ok((stage, oid)) => self.route(stage, oid, columns),
            Err(error) => self.route_between(name, columns).ok_or(error)?,
        };
        self.known.insert(address, Known { route: route.clone(), _kept: (name.clone(), columns.clone()) });
        Ok(route)
    }

    /// As [`Routes::find`], for a change of the migration's own: between two changes of the structure, columns are known by their names
    /// as far as they are there before or afterwards.
    pub(super) fn find_in_between(
        &mut self,
        name: &Arc<Name>,
        columns: &Arc<[capture::Column]>,
        whole: bool,
    ) -> Arc<Route> {
        if let Ok(route) = self.find(name, columns, whole) {
            return route;
        }
        let from = self.current.get(name).map_or(self.passed, |(at, _)| *at);
        let named = |at: usize| Some((at, self.map.stages[at].named(&name.schema, &name.name)?.oid));
        let near = (from..self.map.stages.len()).find_map(named);
        let (stage, oid) = near.map_or((from, None), |(at, oid)| (at, Some(oid)));
        // Not kept: what it means for a change of the app's is an error.
        self.route(stage, oid, columns)
    }

    fn route(&mut self, stage: usize, oid: Option<u32>, columns: &[capture::Column]) -> Arc<Route> {
        Arc::new(match oid {
            None => Route::Nowhere { new: None },
            Some(oid) => self.route_of(stage, oid, columns),
        })
    }

    fn table_of(
        &self,
        name: &Name,
        columns: &[capture::Column],
        whole: bool,
    ) -> Result<(usize, Option<u32>), DbError> {
        let current = self.current.get(name).copied();
        let fit = |(at, oid): (usize, u32)| {
            self.map.stages[at].table(oid).is_some_and(|table| fits(table, columns, whole))
        };
        if let Some((at, oid)) = current.filter(|found| fit(*found)) {
            return Ok((at, Some(oid)));
        }
        let from = current.map_or(self.passed, |(at, _)| at);
        let named = |at: usize| {
            let table = self.map.stages[at].named(&name.schema, &name.name)?;
            Some((at, table.oid))
        };
        let later = from + 1..self.map.stages.len();
        if let Some((at, oid)) =
            later.clone().chain((0..from).rev()).filter_map(named).find(|found| fit(*found))
        {
            return Ok((at, Some(oid)));
        }
        // Between two stages: what is there has to be known from one of them by its name and type.
        let known = |(at, oid): &(usize, u32)| {
            self.map.stages[*at].table(*oid).is_some_and(|table| {
                columns.iter().all(|told| {
                    table.column(&told.name).is_some_and(|column| column.type_name == told.type_name)
                })
            })
        };
        let candidates: Vec<_> = current.into_iter().chain(later.filter_map(named)).collect();
        match candidates.iter().find(|found| known(found)) {
            Some((at, oid)) => Ok((*at, Some(*oid))),
            None if candidates.is_empty() => {
                let whole = self.whole(name);
                Ok((if whole.is_some() { self.map.stages.len() - 1 } else { from }, whole))
            }
            None => Err(DbError::Replay(format!(
                "{} was written to while it looked as it did neither before nor after a migration",
                crate::quote::qualified(&name.schema, &name.name)
            ))),
        }
    }

    /// Tells whether no stage has a table of this name, and nobody has asked what it is.
    pub(super) fn is_unknown(&self, name: &Name) -> bool {
        !self.later.contains_key(name) && !self.is_named(name)
    }

    /// Takes note of what a table is that was made after the migration: a partition, or nothing that has a place.
    pub(super) fn learn(&mut self, name: &Name, later: Later) {
        let last = self.map.stages.len() - 1;
        // Under another name it stays what it was taken for: its rows are read all or none.
        let known = self.later.values().find(|known| known.oid.is_some() && known.oid == later.oid);
        let whole = known.map_or(later.whole, |known| known.whole);
        let whole = whole.filter(|oid| self.map.stages[last].table(*oid).is_some());
        self.later.insert(name.clone(), Later { whole, ..later });
        self.known.clear();
    }

    /// Returns the table with a place of which one that was made after the migration is known to be a partition.
    fn whole(&self, name: &Name) -> Option<u32> {
        self.later.get(name)?.whole
    }

    /// Tells how the rows of a table that was made after the migration were read.
    pub(super) fn read_as(&self, oid: u32) -> ReadAs {
        match self.later.values().find(|later| later.oid == Some(oid)) {
            None => ReadAs::Nobody,
            Some(Later { whole: Some(_), .. }) => ReadAs::Part,
            Some(Later { whole: None, .. }) => ReadAs::Another,
        }
    }

    /// Tells whether a table of any stage has a name.
    pub(super) fn is_named(&self, name: &Name) -> bool {
        self.map.stages.iter().any(|stage| stage.named(&name.schema, &name.name).is_some())
    }

    /// Returns a divided table of a place whose partition a table with these columns may have been.
    pub(super) fn divided_like(&self, columns: &[capture::Column]) -> Option<&Table> {
        let last = self.map.stages.len() - 1;
        let places = (0..self.map.places.len()).flat_map(|place| self.map.sources(last, place));
        let mut divided = places.map(|(table, _)| table).filter(|table| table.partitioned);
        let is_whole = |table: &Table| {
            let written = table.columns.iter().filter(|column| column.generated == Generated::No);
            written.count() == columns.len() && fits(table, columns, false)
        };
        divided.find(|table| is_whole(table))
    }

    /// Finds what a row means that was written between two statements of one revision: its table looks as at neither stage, but each of
    /// its columns is known from one of them by its name and type. `None` where that is not so, or where it means something else since.
    fn route_between(&mut self, name: &Name, columns: &[capture::Column]) -> Option<Arc<Route>> {
        let (from, oid) = self.current.get(name).copied()?;
        let to = (from + 1..self.map.stages.len()).find(|to| self.map.stages[*to].table(oid).is_some())?;
        let has = |stage: usize, told: &capture::Column| {
            let column = self.map.stages[stage].table(oid)?.column(&told.name)?;
            (column.type_name == told.type_name).then_some(())
        };
        if !columns.iter().all(|told| has(from, told).or(has(to, told)).is_some()) {
            return None;
        }
        let (before, after) = (self.route_of(from, oid, columns), self.route_of(to, oid, columns));
        let Route::Place { place, form: old, sources: were, is_unclear, .. } = before else { return None };
        let Route::Place { place: same, form: new, sources: are, is_unclear: is_still, new: has_new } = after
        else {
            return None;
        };
        if place != same || !self.map.places[place].downs.is_empty() {
            return None;
        }
        let chosen = were.into_iter().zip(are).enumerate().map(|(at, (was, is))| match was {
            Told::Nowhere => (self.form(new)[at].clone(), is),
            was => (self.form(old)[at].clone(), was),
        });
        let (form, sources): (Form, Vec<Told>) = chosen.unzip();
        let (form, is_unclear) = (self.form_number(form), is_unclear || is_still);
        Some(Arc::new(Route::Place { place, form, sources, is_unclear, new: has_new }))
    }

    fn route_of(&mut self, stage: usize, oid: u32, columns: &[capture::Column]) -> Route {
        let Some(live) = self.map.stages[stage].table(oid) else { return Route::Nowhere { new: None } };
        let position = |name: &String| columns.iter().position(|told| told.name == *name);
        let new = new_in(&self.map, stage, live).and_then(|new| New::of(&new, live, columns));
        let mapped = match self.map.target(stage, oid) {
            Target::Record => return Route::Record,
            Target::Nowhere => return Route::Nowhere { new },
            Target::Place(mapped) => mapped,
        };
        let Meant { form, from, is_unclear } = self.meant(live, mapped);
        let position = |at: usize| position(&live.columns[at].name);
        let sources = from.iter().map(|told| told.moved(position)).collect();
        let place = mapped.place;
        Route::Place { place, form: self.form_number(form), sources, is_unclear, new }
    }

    /// Returns the place of a table's rows.
    pub(super) fn has_place(&self, name: &Name) -> Option<usize> {
        let (stage, oid) = self.current.get(name)?;
        match self.map.target(*stage, *oid) {
            Target::Place(mapped) => Some(mapped.place),
            _ => None,
        }
    }

    /// Returns the table that has a name now.
    pub(super) fn oid(&self, name: &Name) -> Option<u32> {
        self.current.get(name).map(|(_, oid)| *oid)
    }

    /// Returns which places, and of each which partition, a TRUNCATE of these tables empties; `None` for a whole place.
    pub(super) fn emptied(&self, tables: &[Arc<Name>]) -> Result<Vec<(usize, Option<u32>)>, DbError> {
        let mut emptied = Vec::new();
        for name in tables {
            let last = self.map.stages.len() - 1;
            let later = || Some((last, self.whole(name)?));
            let Some((at, oid)) = self.current.get(name).copied().or_else(later) else { continue };
            let Target::Place(mapped) = self.map.target(at, oid) else { continue };
            let is_part = self.later.contains_key(name)
                || self.map.stages[at].table(oid).is_some_and(|table| table.root.is_some());
            if is_part && mapped.leaf.is_none() {
                let whole = |other: &Arc<Name>| {
                    self.current.get(other).is_some_and(|(at, oid)| {
                        let root = self.map.stages[*at].table(*oid).is_some_and(|table| table.root.is_none());
                        root && matches!(self.map.target(*at, *oid), Target::Place(other) if other.place == mapped.place)
                    })
                };
                if !tables.iter().any(whole) {
                    return Err(DbError::Replay(format!(
                        "{} was emptied, a partition that the golden copy has not got",
                        crate::quote::qualified(&name.schema, &name.name)
                    )));
                }
                continue;
            }
            emptied.push((mapped.place, mapped.leaf));
        }
        Ok(emptied)
    }
}

/// Returns the transactions that gave a table the layout that it has at a stage and did not have before it.
fn makers<'a>(map: &'a Map, stage: usize, table: &'a Table) -> impl Iterator<Item = u32> + 'a {
    let before = stage.checked_sub(1).and_then(|at| map.stages[at].table(table.oid));
    let changed =
        stage > 0 && !map.is_anothers(table) && before.is_none_or(|before| !before.looks_like(table));
    let new = move |xid: &&u32| before.is_none_or(|before| !before.made_by.contains(xid));
    table.made_by.iter().filter(move |_| changed).filter(new).copied()
}

/// Tells how each column of a place is written from a live table.
pub(super) fn form_of(map: &Map, live: &Table, mapped: &Mapped, castable: &Castable) -> Form {
    let golden = &map.places[mapped.place].table;
    let conversion = |(at, column): (&Option<usize>, &Column)| {
        let source = &live.columns[(*at)?];
        (column.generated == Generated::No && source.generated != Generated::Virtual)
            .then(|| conversion(source, column, castable))
    };
    mapped.columns.iter().zip(&golden.columns).map(conversion).collect()
}

pub(super) fn conversion(live: &Column, golden: &Column, castable: &Castable) -> Conversion {
    let can = |from: &Column, to: &Column| {
        from.bare == to.bare || castable.contains(&(from.bare.clone(), to.bare.clone()))
    };
    if live.full == golden.full {
        Conversion::Same
    } else if live.builtin && golden.builtin && can(live, golden) {
        let (bare, full) = (live.bare.clone(), live.full.clone());
        Conversion::Cast { bare, full, back: can(golden, live) }
    } else {
        Conversion::Text
    }
}

/// Lists the pairs of types between which a replay would cast, either way.
pub(super) fn pairs(map: &Map) -> BTreeSet<(String, String)> {
    let mut pairs = BTreeSet::new();
    for stage in 0..map.stages.len() {
        for place in 0..map.places.len() {
            for (live, mapped) in map.sources(stage, place) {
                for (at, column) in mapped.columns.iter().zip(&map.places[place].table.columns) {
                    let Some(source) = at.map(|at| &live.columns[at]) else { continue };
                    add_pair(&mut pairs, source, column);
                }
            }
        }
    }
    for place in &map.places {
        for (at, down) in &place.downs {
            add_pair(&mut pairs, &down.returns, &place.table.columns[*at]);
        }
    }
    pairs
}

fn add_pair(pairs: &mut BTreeSet<(String, String)>, a: &Column, b: &Column) {
    if a.bare != b.bare && a.builtin && b.builtin {
        pairs.insert((a.bare.clone(), b.bare.clone()));
        pairs.insert((b.bare.clone(), a.bare.clone()));
    }
}
