//! Which row of which table of the golden copy a write of the live database means, at each stage of a migration.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::down::Proved;
use super::layout::{Column, Generated, Identity, Layout, Table};
use crate::migrate::RecordTables;

/// What a rehearsal has decided about a replay that names alone do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Tables of the golden copy, quoted, that go on as whichever carries their name; all others as what they are.
    pub(super) tables: BTreeSet<String>,
    /// Columns of the golden copy, as `"schema"."table"."column"`, that do so.
    pub(super) columns: BTreeSet<String>,
    /// Columns of the golden copy whose values are computed.
    #[serde(default)]
    pub(super) downs: Vec<Proved>,
    /// All tables after the migration, quoted: what else has come meanwhile is somebody's.
    #[serde(default)]
    pub(super) after: BTreeSet<String>,
}

impl Way {
    pub(super) fn column(table: &Table, column: &Column) -> String {
        format!("{}.{}", table.quoted(), crate::quote::ident(&column.name))
    }

    /// Returns the way on which everything goes by its name, as long as no row has shown otherwise.
    pub(super) fn by_name(golden: &Layout) -> Self {
        let columns = |table: &Table| -> Vec<String> {
            table.columns.iter().map(|column| Self::column(table, column)).collect()
        };
        Self {
            tables: golden.tables.iter().map(Table::quoted).collect(),
            columns: golden.tables.iter().flat_map(columns).collect(),
            downs: Vec::new(),
            after: BTreeSet::new(),
        }
    }

    /// Has everything that is the same table or column in the end go by what it is: in between, another one may have its name.
    pub(super) fn keep_replaced(&mut self, golden: &Layout, after: &Layout) {
        let first = counterparts(golden, golden, None, self);
        let last = counterparts(golden, after, Some(&first), self);
        for table in &golden.tables {
            let Some(live) = last.get(&table.oid).filter(|live| live.oid == table.oid) else { continue };
            self.tables.remove(&table.quoted());
            for (number, column) in live.numbers.iter().zip(&table.columns) {
                if *number == Some(column.number) {
                    self.columns.remove(&Self::column(table, column));
                }
            }
        }
    }
}

/// How the layouts of a live database correspond to that of its golden copy.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) golden: Layout,
    /// The live database before the migration and after each revision.
    pub(super) stages: Vec<Layout>,
    /// The tables of the golden copy that rows are written to.
    pub(super) places: Vec<Place>,
    /// What each table of each stage means, by oid.
    targets: Vec<HashMap<u32, Target>>,
    /// The tables that somebody has made while the migration ran.
    others: HashSet<u32>,
}

/// A table of the golden copy that rows are written to: no partition, but what is divided into them.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) table: Table,
    /// The columns, by their place in the table, that tell one row from all others at every stage.
    pub(super) key: Option<Vec<usize>>,
    /// The columns, by their place in the table, that are computed from what the migration has made of the row.
    pub(super) downs: BTreeMap<usize, Proved>,
    /// The transactions that change the table in the migration, as far as the catalogue tells.
    pub(super) changed_by: BTreeSet<u32>,
}

/// Where the rows of a live table belong.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To the record of the tool that migrates.
    Record,
    /// Nowhere: the table is new.
    Nowhere,
    /// To a table of the golden copy.
    Place(Mapped),
}

/// How a live table's columns correspond to those of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) place: usize,
    /// For each column of the place, the live column's position in its table.
    pub(super) columns: Vec<Option<usize>>,
    /// The partition of the golden copy that this very table is.
    pub(super) leaf: Option<u32>,
}

/// A golden table's counterpart at a stage.
#[derive(Clone, Debug)]
struct Counterpart {
    oid: u32,
    /// The number of each of its columns that goes on, by position in the golden table.
    numbers: Vec<Option<i16>>,
}

impl Map {
    pub(super) fn new(golden: Layout, stages: Vec<Layout>, way: &Way, record: &RecordTables) -> Self {
        let mut places: Vec<Place> = Vec::new();
        let mut at = HashMap::new();
        for table in golden.tables.iter().filter(|table| table.root.is_none()) {
            if !record.covers(&table.schema, &table.name) {
                at.insert(table.oid, places.len());
                let name = table.quoted();
                let downs = way
                    .downs
                    .iter()
                    .filter(|down| down.table == name)
                    .filter_map(|down| Some((position(table, &down.column)?, down.clone())));
                let (table, downs) = (table.clone(), downs.collect());
                places.push(Place { table, key: None, downs, changed_by: BTreeSet::new() });
            }
        }
        let mut before: Option<HashMap<u32, Counterpart>> = None;
        let mut targets = Vec::new();
        for stage in &stages {
            let found = counterparts(&golden, stage, before.as_ref(), way);
            targets.push(targets_of(&golden, stage, &found, &at, record));
            before = Some(found);
        }
        let others = others(&stages, way);
        let mut map = Self { golden, stages, places, targets, others };
        for place in 0..map.places.len() {
            map.places[place].key = map.key_of(place);
            map.places[place].changed_by = map.changed_by(place);
        }
        map
    }

    /// Finds the transactions that gave the tables of a place what they did not have before the migration.
    pub(super) fn changed_by(&self, place: usize) -> BTreeSet<u32> {
        let before = |table: &Table| self.stages.first().and_then(|first| first.table(table.oid));
        let made = |(table, _): (&Table, &Mapped)| -> Vec<u32> {
            let was = |xid: &&u32| before(table).is_some_and(|before| before.made_by.contains(xid));
            table.made_by.iter().filter(|xid| !was(xid)).copied().collect()
        };
        let own = |(table, _): &(&Table, &Mapped)| !self.is_anothers(table);
        let of = |stage: usize| self.sources(stage, place).filter(own).flat_map(made);
        (1..self.stages.len()).flat_map(of).collect()
    }

    /// Tells whether rows of a place may have come or gone with the migration in a way of which no log tells: its tables are others in
    /// the end, or were written anew or emptied.
    pub(super) fn is_made_anew(&self, place: usize) -> bool {
        let files = |stage: usize| -> BTreeSet<(u32, u32)> {
            self.sources(stage, place).map(|(table, _)| (table.oid, table.file)).collect()
        };
        files(0) != files(self.stages.len() - 1)
    }

    /// Tells whether somebody other than the migration has made a table.
    pub(super) fn is_anothers(&self, table: &Table) -> bool {
        self.others.contains(&table.oid)
    }

    /// Tells whether a live column is what a column of a place is computed from.
    pub(super) fn is_input(&self, place: usize, column: &Column) -> bool {
        self.places[place].downs.values().any(|down| down.inputs.contains(&column.name))
    }

    pub(super) fn target(&self, stage: usize, oid: u32) -> &Target {
        self.targets.get(stage).and_then(|targets| targets.get(&oid)).unwrap_or(&Target::Nowhere)
    }

    /// Lists the tables of a stage whose rows belong to a place.
    pub(super) fn sources(&self, stage: usize, place: usize) -> impl Iterator<Item = (&Table, &Mapped)> {
        self.stages[stage].tables.iter().filter_map(move |table| match self.target(stage, table.oid) {
            Target::Place(mapped) if mapped.place == place => Some((table, mapped)),
            _ => None,
        })
    }

    /// Lists the tables whose rows are a place's in the end, each row once.
    pub(super) fn last_sources(&self, place: usize) -> Vec<(&Table, &Mapped)> {
        self.sources_once(self.stages.len() - 1, place)
    }

    /// Lists the tables of a stage whose rows are a place's, without those whose rows another one of them has as well.
    fn sources_once(&self, stage: usize, place: usize) -> Vec<(&Table, &Mapped)> {
        let all: Vec<_> = self.sources(stage, place).collect();
        let is_source = |oid: u32| all.iter().any(|(table, _)| table.oid == oid);
        let is_free = |(table, mapped): &&(&Table, &Mapped)| match table.root {
            None => true,
            // What it is a part of is something new.
            Some(root) => mapped.leaf.is_none() && !is_source(root),
        };
        let free: Vec<_> = all.iter().filter(is_free).copied().collect();
        if free.is_empty() { all } else { free }
    }

    /// Chooses the key by which the rows of a place are found, whatever the stage in which they are changed.
    fn key_of(&self, place: usize) -> Option<Vec<usize>> {
        let table = &self.places[place].table;
        table.keys.iter().find_map(|key| {
            let key: Vec<usize> = key.iter().map(|name| position(table, name)).collect::<Option<_>>()?;
            if key.iter().any(|at| self.places[place].downs.contains_key(at)) {
                return None;
            }
            let told = |(live, mapped): (&Table, &Mapped)| {
                key.iter().all(|column| {
                    let source = mapped.columns[*column].map(|at| &live.columns[at]);
                    let source = source.filter(|source| source.generated != Generated::Virtual);
                    source.is_some_and(|source| match &live.identity {
                        Identity::Nothing | Identity::Whole => true,
                        Identity::Columns(columns) => columns.contains(&source.name),
                    })
                })
            };
            (0..self.stages.len()).all(|stage| self.sources(stage, place).all(told)).then_some(key)
        })
    }
}

/// Finds the tables that came with the migration, are there at its end, and were not there at the end of its rehearsal.
fn others(stages: &[Layout], way: &Way) -> HashSet<u32> {
    let (Some(first), Some(last)) = (stages.first(), stages.last()) else { return HashSet::new() };
    let is_another =
        |table: &&Table| first.table(table.oid).is_none() && !way.after.contains(&table.quoted());
    let others = last.tables.iter().filter(|_| !way.after.is_empty()).filter(is_another);
    others.map(|table| table.oid).collect()
}

/// Returns the table of a stage that has all rows of a place, or any of those that have a part.
pub(super) fn whole_source(map: &Map, stage: usize, place: usize) -> Option<(&Table, &Mapped)> {
    map.sources_once(stage, place).first().copied()
}

fn position(table: &Table, name: &str) -> Option<usize> {
    table.columns.iter().position(|column| column.name == name)
}

/// Finds the counterpart of each golden table at a stage: what it has become, or what carries its name.
///
/// Which of the two is decided by the rehearsal, and at the first stage by the name. A table that is made anew beside the old one and
/// takes its name at the end is the usual way of changing what cannot be altered; what goes on under another name while a different thing
/// takes the old one is told by the rows alone.
fn counterparts<'a>(
    golden: &Layout,
    stage: &'a Layout,
    before: Option<&HashMap<u32, Counterpart>>,
    way: &Way,
) -> HashMap<u32, Counterpart> {
    let mut taken = HashSet::new();
    let mut found: HashMap<u32, &'a Table> = HashMap::new();
    let same = |table: &Table| before.and_then(|before| before.get(&table.oid));
    let by_name = |table: &Table| stage.named(&table.schema, &table.name);
    let by_identity = |table: &Table| same(table).and_then(|counterpart| stage.table(counterpart.oid));
    let goes_by_name = |table: &Table| before.is_none() || way.tables.contains(&table.quoted());
    type Pass<'p, 'a> = &'p dyn Fn(&Table) -> Option<&'a Table>;
    let passes: [Pass<'_, 'a>; 3] = [
        &|table| by_identity(table).filter(|_| !goes_by_name(table)),
        &|table| by_name(table).filter(|_| goes_by_name(table)),
        &|table| by_identity(table),
    ];
    for pass in passes {
        for table in &golden.tables {
            if found.contains_key(&table.oid) {
                continue;
            }
            if let Some(live) = pass(table).filter(|live| !taken.contains(&live.oid)) {
                taken.insert(live.oid);
                found.insert(table.oid, live);
            }
        }
    }
    let counterpart = |(oid, live): (&u32, &&Table)| {
        let table = golden.table(*oid)?;
        let same = same(table).filter(|before| before.oid == live.oid);
        Some((*oid, Counterpart { oid: live.oid, numbers: columns_of(table, live, same, way) }))
    };
    found.iter().filter_map(counterpart).collect()
}

/// Finds the counterpart of each column in the same way, in a table that may be the one of before.
fn columns_of<'a>(
    golden: &Table,
    live: &'a Table,
    same: Option<&Counterpart>,
    way: &Way,
) -> Vec<Option<i16>> {
    let mut taken = HashSet::new();
    let mut found: Vec<Option<i16>> = vec![None; golden.columns.len()];
    let by_name = |at: usize| live.column(&golden.columns[at].name);
    let by_identity =
        |at: usize| same.and_then(|same| same.numbers[at]).and_then(|number| live.numbered(number));
    let goes_by_name =
        |at: usize| same.is_none() || way.columns.contains(&Way::column(golden, &golden.columns[at]));
    type Pass<'p, 'a> = &'p dyn Fn(usize) -> Option<&'a Column>;
    let passes: [Pass<'_, 'a>; 3] = [
        &|at| by_identity(at).filter(|_| !goes_by_name(at)),
        &|at| by_name(at).filter(|_| goes_by_name(at)),
        &|at| by_identity(at),
    ];
    for pass in passes {
        for (at, found) in found.iter_mut().enumerate().filter(|(_, found)| found.is_none()) {
            if let Some(column) = pass(at).filter(|column| !taken.contains(&column.number)) {
                taken.insert(column.number);
                *found = Some(column.number);
            }
        }
    }
    found
}

fn targets_of(
    golden: &Layout,
    stage: &Layout,
    counterparts: &HashMap<u32, Counterpart>,
    places: &HashMap<u32, usize>,
    record: &RecordTables,
) -> HashMap<u32, Target> {
    let mut targets = HashMap::new();
    for (oid, counterpart) in counterparts {
        let (Some(table), Some(live)) = (golden.table(*oid), stage.table(counterpart.oid)) else { continue };
        let top = golden.top(table);
        let Some(place) = places.get(&top.oid) else { continue };
        let column = |column: &Column| {
            let number = counterpart.numbers[position(table, &column.name)?]?;
            live.columns.iter().position(|column| column.number == number)
        };
        targets.insert(
            live.oid,
            Target::Place(Mapped {
                place: *place,
                columns: top.columns.iter().map(column).collect(),
                leaf: table.root.map(|_| table.oid),
            }),
        );
    }
    for live in &stage.tables {
        if record.covers(&live.schema, &live.name) {
            targets.insert(live.oid, Target::Record);
            continue;
        }
        let top = stage.top(live);
        // A partition that has no counterpart of its own is a part of what it belongs to.
        if top.oid != live.oid
            && !targets.contains_key(&live.oid)
            && let Some(Target::Place(whole)) = targets.get(&top.oid)
        {
            let column = |at: &Option<usize>| at.and_then(|at| position(live, &top.columns[at].name));
            let (place, columns) = (whole.place, whole.columns.iter().map(column).collect());
            targets.insert(live.oid, Target::Place(Mapped { place, columns, leaf: None }));
        }
    }
    targets
}

/// Tells whether the columns that the stream names are those of a table.
pub(super) fn fits(table: &Table, columns: &[crate::capture::Column], whole: bool) -> bool {
    let same = |column: &Column, told: &crate::capture::Column| {
        column.name == told.name && column.type_name == told.type_name
    };
    if !whole {
        return columns.iter().all(|told| table.columns.iter().any(|column| same(column, told)));
    }
    let written = |column: &&Column| column.generated == Generated::No;
    let is_written = |told: &&crate::capture::Column| {
        table.column(&told.name).is_none_or(|column| column.generated == Generated::No)
    };
    let (mut own, mut told) = (table.columns.iter().filter(written), columns.iter().filter(is_written));
    loop {
        match (own.next(), told.next()) {
            (None, None) => return true,
            (Some(column), Some(told)) if same(column, told) => {}
            _ => return false,
        }
    }
}
