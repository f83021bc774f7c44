//! Whether a golden copy will be able to follow through a migration: told on a rehearsed copy, by its rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::apply::refusal;
use super::down::{self, Down, Proved};
use super::layout::{Column, Generated, Identity, Layout, Table};
use super::map::{Map, Mapped, Way, whole_source};
use super::rescue::new_columns;
use super::route::{Castable, Conversion, conversion, form_of};
use super::watch::Own;
use super::{castable, session, sql};
use crate::error::Doing;
use crate::migrate::RecordTables;
use crate::{Database, DbError, quote};

/// How many rows of a golden table are held in memory at once while they are compared; about 100 bytes each.
const ROWS_PER_PASS: u64 = 1_000_000;

/// Whether later writes can be carried back through a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Why they cannot; each is reason enough. Empty when a rewind is possible.
    pub obstacles: Vec<String>,
    /// What a rewind does not bring back, or brings back although the migration has removed it.
    pub costs: Vec<String>,
    /// The columns that are one of the obstacles each: a down expression would clear it away.
    #[serde(default)]
    pub changed: Vec<ChangedColumn>,
    /// What the replay needs to know.
    pub way: Way,
}

/// A column that means something else after a migration, or is gone although every row must have a value for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedColumn {
    /// Its table as it was called before: `schema.table`.
    pub table: String,
    /// Its name before.
    pub column: String,
}

/// Compares a migrated copy with the golden copy that it was made from.
///
/// Every table that the migration has written to, or of which it has changed a column that goes on, is read on both sides and compared
/// value by value: a changed meaning shows in no catalogue. Of a column with a down expression, which must be one of a migration that ran
/// on the copy, the expression has to give every value back.
///
/// # Errors
/// When either cannot be read.
pub async fn offer(
    golden: &Database,
    copy: &Database,
    own: &Own,
    record: &RecordTables,
    downs: &[Down],
) -> Result<Offer, DbError> {
    let (golden, copy) = (session(golden).await?, session(copy).await?);
    let (before, after) = (Layout::read(&golden).await?, Layout::read(&copy).await?);
    let way = Way::by_name(&before);
    let map = Map::new(before.clone(), vec![before.clone(), after.clone()], &way, record);
    let offer = Offer { obstacles: Vec::new(), costs: Vec::new(), changed: Vec::new(), way };
    let mut judge = Judge { golden, copy, own, castable: Castable::new(), offer };
    judge.choose_tables(&map).await?;
    let map = Map::new(before.clone(), vec![before.clone(), after.clone()], &judge.offer.way, record);
    judge.downs(&map, downs).await?;
    let map = Map::new(before.clone(), vec![before.clone(), after.clone()], &judge.offer.way, record);
    judge.castable = castable(&judge.golden, &map).await?;
    for place in 0..map.places.len() {
        judge.place(&map, place).await?;
    }
    judge.offer.way.keep_replaced(&before, &after);
    judge.offer.way.after = after.tables.iter().map(Table::quoted).collect();
    let map = Map::new(before.clone(), vec![before, after], &judge.offer.way, record);
    judge.shape(&map);
    judge.triggers(&map).await?;
    judge.large_objects().await?;
    for table in &own.untold {
        judge.offer.obstacles.push(format!(
            "the migration writes rows of {table} in a transaction that cannot be told from the app's"
        ));
    }
    let mut offer = judge.offer;
    offer.obstacles.dedup();
    offer.costs.dedup();
    Ok(offer)
}

struct Judge<'a> {
    golden: crate::Session,
    copy: crate::Session,
    own: &'a Own,
    castable: Castable,
    offer: Offer,
}

/// A golden column beside one that may be what became of it.
#[derive(Clone, Debug)]
struct Pair {
    /// The golden column's position.
    at: usize,
    live: Column,
    conversion: Conversion,
    /// What joins its value to the live table's rows, and under which name, where it is computed.
    computed: Option<(String, String)>,
}

/// How the rows of two tables compare.
#[derive(Clone, Debug, Default)]
struct Compared {
    golden: u64,
    /// Rows that both have, by key.
    both: u64,
    live: u64,
    /// Of each pair: rows that hold another value than before, where there was one.
    changed: Vec<u64>,
    /// Rows that hold the same value, which is not NULL.
    same: Vec<u64>,
}

impl Judge<'_> {
    /// Takes up the down expressions that can be of use.
    async fn downs(&mut self, map: &Map, downs: &[Down]) -> Result<(), DbError> {
        for down in downs {
            let writers = |place: usize| &self.written(map, place).by | &map.changed_by(place);
            match down::look(&self.copy, map, down, writers).await? {
                Ok(proved) => self.offer.way.downs.push(proved),
                Err(why) => self.offer.obstacles.push(why),
            }
        }
        let only_read = "set default_transaction_read_only = on";
        self.copy.batch_execute(only_read).await.doing(|| "try down expressions".into())
    }

    /// Decides which tables go on under another name, though a table with their name is there.
    async fn choose_tables(&mut self, map: &Map) -> Result<(), DbError> {
        for table in &map.golden.tables {
            let named = map.stages[1].named(&table.schema, &table.name);
            let same = map.stages[1].table(table.oid);
            let (Some(named), Some(same)) = (named, same) else { continue };
            if named.oid == same.oid {
                continue;
            }
            let by_name = self.likeness(table, named).await?;
            let by_identity = self.likeness(table, same).await?;
            if by_identity > by_name {
                self.offer.way.tables.remove(&table.quoted());
            }
        }
        Ok(())
    }

    /// Counts the rows of a golden table that another one has by key and with all values that both have by name.
    async fn likeness(&self, golden: &Table, live: &Table) -> Result<u64, DbError> {
        let pairs: Vec<Pair> = (0..golden.columns.len())
            .filter_map(|at| {
                let live = live.column(&golden.columns[at].name)?.clone();
                Some(Pair { at, live, conversion: Conversion::Text, computed: None })
            })
            .collect();
        let Some(key) = golden.keys.first() else { return Ok(0) };
        let key: Vec<Pair> =
            pairs.iter().filter(|pair| key.contains(&golden.columns[pair.at].name)).cloned().collect();
        if key.len() != golden.keys[0].len() {
            return Ok(0);
        }
        Ok(self.compare(golden, live, &key, &pairs).await?.both)
    }

    /// Compares the rows of a place with what became of them.
    async fn place(&mut self, map: &Map, place: usize) -> Result<(), DbError> {
        let golden = &map.places[place].table;
        let name = golden.quoted();
        let sources: Vec<(&Table, &Mapped)> = map.sources(1, place).collect();
        let Some((live, mapped)) = whole_source(map, 1, place) else {
            let rows = self.count(&self.golden, golden).await?;
            if rows > 0 {
                self.offer.costs.push(format!(
                    "{name} is removed: what is written afterwards to what takes its place does not come back"
                ));
            }
            return Ok(());
        };
        let own = self.written(map, place);
        if own.rekeyed {
            self.offer.obstacles.push(format!("the migration gives rows of {name} other keys"));
            return Ok(());
        }
        let form = form_of(map, live, mapped, &self.castable);
        let identity: Vec<Option<&Column>> = golden
            .columns
            .iter()
            .map(|column| match live.oid == golden.oid {
                true => live.numbered(column.number),
                false => None,
            })
            .collect();
        let mut pairs = Vec::new();
        for at in 0..golden.columns.len() {
            if golden.columns[at].generated != Generated::No {
                continue;
            }
            if let Some(down) = map.places[place].downs.get(&at) {
                pairs.push(self.computed(golden, at, live, down));
                continue;
            }
            let by_name = mapped.columns[at].map(|source| &live.columns[source]);
            for (live, conversion) in [(by_name, form[at].clone()), (identity[at], None)] {
                let Some(live) = live else { continue };
                let known = pairs.iter().any(|pair: &Pair| pair.at == at && pair.live.number == live.number);
                if !known {
                    let conversion = conversion.unwrap_or(Conversion::Text);
                    pairs.push(Pair { at, live: live.clone(), conversion, computed: None });
                }
            }
        }
        let ambiguous =
            (0..golden.columns.len()).any(|at| pairs.iter().filter(|pair| pair.at == at).count() > 1);
        let converted = pairs.iter().any(|pair| {
            pair.conversion != Conversion::Same || pair.live.made_of != golden.columns[pair.at].made_of
        });
        // The same name, but another column.
        let ambiguous = ambiguous
            || live.oid == golden.oid
                && pairs.iter().any(|pair| pair.live.number != golden.columns[pair.at].number);
        let computed = pairs.iter().any(|pair| pair.computed.is_some());
        let moved = sources
            .iter()
            .any(|(table, _)| map.golden.table(table.oid).is_none_or(|before| before.file != table.file));
        if !(own.any || ambiguous || converted || moved || computed) {
            return Ok(());
        }
        let Some(key) = &map.places[place].key else {
            if own.any || moved {
                self.keyless(golden, live, &pairs).await?;
            }
            return Ok(());
        };
        let key: Vec<Pair> =
            key.iter().filter_map(|at| pairs.iter().find(|pair| pair.at == *at).cloned()).collect();
        if !self.are_taken(golden, live, &pairs).await? {
            return Ok(());
        }
        let compared = self.compare(golden, live, &key, &pairs).await?;
        self.rows(&name, &compared);
        self.columns(golden, &pairs, &compared);
        Ok(())
    }

    /// Returns a golden column beside the expression that gives its values back.
    fn computed(&self, golden: &Table, at: usize, live: &Table, down: &Proved) -> Pair {
        let name = format!("d{at}");
        Pair {
            at,
            live: down.returns.clone(),
            conversion: conversion(&down.returns, &golden.columns[at], &self.castable),
            computed: Some((down.beside(&name, live), format!("{name}.v"))),
        }
    }

    /// Tells whether the golden columns take what their down expressions give, if not exactly; what they do not take is an obstacle.
    async fn are_taken(&mut self, golden: &Table, live: &Table, pairs: &[Pair]) -> Result<bool, DbError> {
        let mut taken = true;
        for pair in pairs {
            let Some((join, _)) = &pair.computed else { continue };
            let column = &golden.columns[pair.at];
            let sql = format!("select count({}) from {} g{join}", as_before(column, pair), live.quoted());
            let what = || format!("try a down expression of {}", golden.quoted());
            match self.copy.query_one(&sql, &[]).await.doing(what) {
                Err(error) if refusal(&error).is_some() => {
                    self.offer.obstacles.push(format!(
                        "the down expression of {} in piton.toml, `{}`, gives a value that is no {}",
                        Way::column(golden, column),
                        self.is(golden, column),
                        column.full
                    ));
                    taken = false;
                }
                done => drop(done?),
            }
        }
        Ok(taken)
    }

    /// Returns the text of a column's down expression.
    fn is(&self, golden: &Table, column: &Column) -> &str {
        let downs = &self.offer.way.downs;
        let down = downs.iter().find(|down| down.table == golden.quoted() && down.column == column.name);
        down.map(|down| down.is.as_str()).unwrap_or_default()
    }

    /// Judges which rows came and went.
    fn rows(&mut self, name: &str, compared: &Compared) {
        let rows = |count: u64| crate::replay::rows(count);
        if compared.both == 0 && compared.golden > 0 && compared.live > 0 {
            self.offer.obstacles.push(format!("no row of {name} is known by its key after the migration"));
            return;
        }
        let removed = compared.golden - compared.both;
        if removed > 0 {
            self.offer
                .costs
                .push(format!("{} of {name} that the migration removes will be there again", rows(removed)));
        }
        let made = compared.live - compared.both;
        if made > 0 {
            self.offer
                .costs
                .push(format!("{} of {name} that the migration makes will not be there", rows(made)));
        }
    }

    /// Judges what became of each column, and decides where the name does not tell.
    fn columns(&mut self, golden: &Table, pairs: &[Pair], compared: &Compared) {
        for at in 0..golden.columns.len() {
            let column = &golden.columns[at];
            let candidates: Vec<usize> = (0..pairs.len()).filter(|pair| pairs[*pair].at == at).collect();
            let (Some(first), second) = (candidates.first(), candidates.get(1)) else { continue };
            if pairs[*first].computed.is_some() {
                self.given_back(golden, column, compared.changed[*first], compared.same[*first]);
                continue;
            }
            let holds = |pair: usize| compared.changed[pair] == 0;
            let shows = |pair: usize| holds(pair) && compared.same[pair] > 0;
            if let Some(second) = second
                && !shows(*first)
                && shows(*second)
            {
                self.offer.way.columns.remove(&Way::column(golden, column));
                continue;
            }
            if !holds(*first) {
                let changed = compared.changed[*first];
                self.offer.obstacles.push(format!(
                    "the migration changes what is in {}: {} {} another value",
                    Way::column(golden, column),
                    crate::replay::rows(changed),
                    if changed == 1 { "holds" } else { "hold" }
                ));
                self.down_wanted(golden, column);
                continue;
            }
            let pair = &pairs[*first];
            if !shows(*first) && pair.conversion != Conversion::Same && !is_kin(&pair.live, column) {
                self.offer.obstacles.push(format!(
                    "{} was {} and is {}, and no row shows what becomes of a value",
                    Way::column(golden, column),
                    column.full,
                    pair.live.full
                ));
            }
        }
    }

    /// Notes that a down expression would clear away what was said of a column.
    fn down_wanted(&mut self, golden: &Table, column: &Column) {
        let table = format!("{}.{}", golden.schema, golden.name);
        let wanted = ChangedColumn { table, column: column.name.clone() };
        if !self.offer.changed.contains(&wanted) {
            self.offer.changed.push(wanted);
        }
    }

    /// Judges whether a down expression has given a column's values back.
    fn given_back(&mut self, golden: &Table, column: &Column, changed: u64, same: u64) {
        let (label, is) = (Way::column(golden, column), self.is(golden, column));
        if changed > 0 {
            self.offer.obstacles.push(format!(
                "the down expression of {label} in piton.toml, `{is}`, does not give back what was there in {}",
                crate::replay::rows(changed)
            ));
        } else if same == 0 {
            self.offer.obstacles.push(format!(
                "no row shows whether the down expression of {label} in piton.toml, `{is}`, gives back what was there"
            ));
        }
    }

    /// Judges a table without a key: its rows must be what they were.
    async fn keyless(&mut self, golden: &Table, live: &Table, pairs: &[Pair]) -> Result<(), DbError> {
        let compared = self.compare(golden, live, pairs, pairs).await?;
        if compared.both < compared.golden || compared.both < compared.live {
            self.offer.obstacles.push(format!(
                "the migration writes rows of {}, which has no key by which they would be known",
                golden.quoted()
            ));
        }
        Ok(())
    }

    /// Judges what the catalogue alone tells.
    fn shape(&mut self, map: &Map) {
        for (at, place) in map.places.iter().enumerate() {
            let name = place.table.quoted();
            for (live, mapped) in map.sources(1, at) {
                if live.unlogged || place.table.unlogged {
                    self.offer.costs.push(format!(
                        "{name} is unlogged: no log tells what is written to it, so that it comes back as the migration has left it"
                    ));
                }
                if place.key.is_none() && !new_columns(map, live, mapped).is_empty() {
                    self.offer.costs.push(format!(
                        "{name} has no key by which what is written into its new columns could be saved"
                    ));
                }
                match (&live.identity, live.partitioned) {
                    (_, true) | (Identity::Whole, _) => {}
                    (Identity::Nothing, _) => {
                        self.offer.obstacles.push(format!(
                            "{} has no key, so that the log does not tell which row is changed or removed",
                            live.quoted()
                        ));
                    }
                    (Identity::Columns(_), _) if place.key.is_none() => {
                        self.offer.obstacles.push(format!(
                            "the key of {name} does not go on: what is changed or removed afterwards is not known by it"
                        ));
                    }
                    _ => {}
                }
                for (at, (source, column)) in mapped.columns.iter().zip(&place.table.columns).enumerate() {
                    if column.generated != Generated::No || place.downs.contains_key(&at) {
                        continue;
                    }
                    let label = Way::column(&place.table, column);
                    match source.map(|at| &live.columns[at]) {
                        Some(source) if source.generated == Generated::Virtual => {
                            self.offer.obstacles.push(format!("{label} is computed when it is read, and in no log"));
                        }
                        Some(_) => {}
                        None if column.not_null && !column.has_default => {
                            self.offer.obstacles.push(format!(
                                "{label} is removed, has no default and must not be NULL: a row that is written afterwards has no \
                                 value for it"
                            ));
                            if place.key.as_ref().is_some_and(|key| !key.contains(&at)) {
                                self.down_wanted(&place.table, column);
                            }
                        }
                        None => self.offer.costs.push(format!(
                            "{label} is removed: rows that are written afterwards come back without a value for it"
                        )),
                    }
                }
            }
        }
        self.offer.obstacles.sort();
        self.offer.obstacles.dedup();
        self.offer.costs.sort();
        self.offer.costs.dedup();
    }

    /// Says what is not told of large objects, where there are any.
    async fn large_objects(&mut self) -> Result<(), DbError> {
        let some = "select exists (select from pg_catalog.pg_largeobject_metadata)";
        let row = self.copy.query_one(some, &[]).await.doing(|| "look for large objects".into())?;
        if row.get(0) {
            self.offer.costs.push(
                "large objects are in no log: once one is written, the migration goes back only when a person says so".into(),
            );
        }
        Ok(())
    }

    /// Names the triggers of before that would have done something more with later writes.
    async fn triggers(&mut self, map: &Map) -> Result<(), DbError> {
        const TRIGGERS: &str = "
            select t.tgrelid, t.tgname::text, t.tgtype::int4, p.prosrc
            from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
            where not t.tgisinternal and t.tgenabled <> 'D' order by 1, 2";
        type Trigger = ((u32, String), (i32, String));
        let read = async |client: &Client| -> Result<BTreeMap<_, _>, DbError> {
            let rows = client.query(TRIGGERS, &[]).await.doing(|| "read the triggers".into())?;
            let trigger = |row: &tokio_postgres::Row| -> Trigger {
                ((row.get(0), row.get(1)), (row.get(2), row.get(3)))
            };
            Ok(rows.iter().map(trigger).collect())
        };
        let (before, after) = (read(&self.golden).await?, read(&self.copy).await?);
        for ((oid, trigger), does) in before {
            let Some(table) = map.golden.table(oid) else { continue };
            let top = map.golden.top(table);
            let Some(place) = map.places.iter().position(|place| place.table.oid == top.oid) else {
                continue;
            };
            let goes_on =
                map.sources(1, place).any(|(live, _)| after.get(&(live.oid, trigger.clone())) == Some(&does));
            if !goes_on && map.sources(1, place).next().is_some() {
                self.offer.costs.push(format!(
                    "the trigger {} of {} is removed or changed: what it would have done to later rows is not made up for",
                    quote::ident(&trigger),
                    table.quoted()
                ));
            }
        }
        Ok(())
    }

    /// Tells what the migration itself writes to the tables of a place, under whichever name.
    fn written(&self, map: &Map, place: usize) -> Written {
        let mut names: Vec<String> = Vec::new();
        for stage in 0..2 {
            for (table, _) in map.sources(stage, place) {
                // The name may have been another one at either end.
                names.push(table.quoted());
                names.extend(map.stages.iter().filter_map(|stage| stage.table(table.oid)).map(Table::quoted));
            }
        }
        let is_known = |name: &str| {
            map.stages.iter().any(|stage| stage.tables.iter().any(|table| table.quoted() == name))
        };
        let mut written = Written::default();
        for (name, writes) in &self.own.tables {
            // What carried a name only in between may be any table.
            if names.contains(name) || !is_known(name) {
                written.any = true;
                written.by.extend(&writes.by);
                written.rekeyed |= writes.rekeyed > 0 && names.contains(name);
            }
        }
        written
    }

    async fn count(&self, client: &Client, table: &Table) -> Result<u64, DbError> {
        let sql = format!("select count(*) from {}", table.quoted());
        let row =
            client.query_one(&sql, &[]).await.doing(|| format!("count the rows of {}", table.quoted()))?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
    }

    /// Matches the rows of a golden table and a live one by key, and compares each pair of columns.
    ///
    /// A golden value is cast to the live type first: what the server's own cast has made of it is no change of its meaning.
    async fn compare(
        &self,
        golden: &Table,
        live: &Table,
        key: &[Pair],
        pairs: &[Pair],
    ) -> Result<Compared, DbError> {
        let total = self.count(&self.golden, golden).await?;
        let passes = total / ROWS_PER_PASS + 1;
        let mut compared =
            Compared { changed: vec![0; pairs.len()], same: vec![0; pairs.len()], ..Compared::default() };
        // Whether a value was found that its live type does not take.
        let mut careful = false;
        for pass in 0..passes {
            let mine = |hash: u128| u64::try_from(hash % u128::from(passes)).unwrap_or_default() == pass;
            let mut rows: HashMap<u128, Vec<Vec<u64>>> = HashMap::new();
            let list =
                |of: &dyn Fn(&Pair) -> String| -> Vec<String> { key.iter().chain(pairs).map(of).collect() };
            let joins: String =
                pairs.iter().filter_map(|pair| Some(pair.computed.as_ref()?.0.as_str())).collect();
            let after = |pair: &Pair| as_before(&golden.columns[pair.at], pair);
            loop {
                let before = |pair: &Pair| as_live(&golden.columns[pair.at], pair, careful);
                let columns = list(&before);
                let read = each(&self.golden, (golden, ""), &columns, key.len(), |hash, values| {
                    if mine(hash) {
                        rows.entry(hash).or_default().push(values);
                    }
                });
                match read.await {
                    Err(error) if !careful && refusal(&error).is_some() => {
                        self.make_careful(golden, pairs).await?;
                        careful = true;
                        rows.clear();
                    }
                    read => break read?,
                }
            }
            compared.golden += rows.values().map(|rows| rows.len() as u64).sum::<u64>();
            each(&self.copy, (live, &joins), &list(&after), key.len(), |hash, values| {
                if !mine(hash) {
                    return;
                }
                compared.live += 1;
                let Some(before) = rows.get_mut(&hash).and_then(Vec::pop) else { return };
                compared.both += 1;
                for (at, (before, after)) in before.iter().zip(&values).enumerate() {
                    match (*before, *after) {
                        (NULL, NULL) => {}
                        // What the migration has filled is known row by row while it is followed; what is computed is not.
                        (NULL, _) if pairs[at].computed.is_none() => {}
                        (before, after) if before == after => compared.same[at] += 1,
                        _ => compared.changed[at] += 1,
                    }
                }
            })
            .await?;
        }
        Ok(compared)
    }

    /// Makes, for this session alone, a function for each cast that returns what it does not take as it is.
    async fn make_careful(&self, golden: &Table, pairs: &[Pair]) -> Result<(), DbError> {
        for pair in pairs {
            let column = &golden.columns[pair.at];
            let (Conversion::Cast { full, back: true, .. }, None) = (&pair.conversion, &pair.computed) else {
                continue;
            };
            let make = format!(
                "create or replace function {}(value {}) returns text language plpgsql as $$
                 begin return (value::{full})::text; exception when data_exception then return value::text; end $$",
                careful_cast(&column.bare, full),
                column.bare
            );
            let what = || format!("try the casts of {}", golden.quoted());
            self.golden.batch_execute(&make).await.doing(what)?;
        }
        Ok(())
    }
}

/// Returns what became of a golden column, as it is compared: what is computed goes back into the golden type, all else is as it is.
fn as_before(golden: &Column, pair: &Pair) -> String {
    let Some((_, value)) = &pair.computed else {
        return format!("g.{}::text", quote::ident(&pair.live.name));
    };
    match &pair.conversion {
        // What the golden type does not hold is told from all that was there.
        Conversion::Cast { bare, back: true, .. } => {
            let fits = sql::same(&format!("({value}::{})::{bare}", golden.full), value, bare);
            format!("case when {fits} then ({value}::{})::text else 'not ' || {value}::text end", golden.full)
        }
        Conversion::Cast { .. } => format!("({value}::{})::text", golden.full),
        _ => format!("{value}::text"),
    }
}

/// Returns a golden column as the text of its live type; one that is computed as it is.
fn as_live(column: &Column, pair: &Pair, careful: bool) -> String {
    let name = format!("g.{}", quote::ident(&column.name));
    if pair.computed.is_some() {
        return format!("{name}::text");
    }
    match &pair.conversion {
        Conversion::Cast { full, back: true, .. } if careful => {
            format!("{}({name})", careful_cast(&column.bare, full))
        }
        Conversion::Cast { full, back: true, .. } => format!("({name}::{full})::text"),
        _ => format!("{name}::text"),
    }
}

/// Returns the function of [`Judge::make_careful`] for a cast.
fn careful_cast(from: &str, to: &str) -> String {
    format!("pg_temp.{}", quote::ident(&format!("{:016x}", hash_of(&format!("{from} to {to}")))))
}

#[derive(Debug, Default)]
struct Written {
    any: bool,
    /// In which transactions.
    by: BTreeSet<u32>,
    rekeyed: bool,
}

/// The hash of no value.
const NULL: u64 = 0;

/// Reads a table's rows, with what is joined to each: the hash of the first columns, which are the key, and one of each further column.
async fn each(
    client: &Client,
    (table, joins): (&Table, &str),
    columns: &[String],
    key: usize,
    mut row: impl FnMut(u128, Vec<u64>),
) -> Result<(), DbError> {
    let what = || format!("read the rows of {}", table.quoted());
    let only = if table.partitioned { "" } else { "only " };
    let sql = format!("select {} from {only}{} g{joins}", columns.join(", "), table.quoted());
    let none: [&str; 0] = [];
    let rows = client.query_raw(&sql, none).await.doing(what)?;
    pin_mut!(rows);
    while let Some(found) = rows.next().await {
        let found = found.doing(what)?;
        let mut hasher = blake3::Hasher::new();
        let mut values = Vec::with_capacity(columns.len() - key);
        for at in 0..columns.len() {
            let text: Option<&str> = found.get(at);
            if at < key {
                let text = text.unwrap_or("\0");
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            } else {
                values.push(text.map_or(NULL, hash_of));
            }
        }
        let hash = hasher.finalize();
        let [low, high, ..] = hash.as_bytes().as_chunks::<8>().0 else { continue };
        row(u128::from(u64::from_le_bytes(*low)) << 64 | u128::from(u64::from_le_bytes(*high)), values);
    }
    Ok(())
}

pub(super) fn hash_of(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let [bytes, ..] = hash.as_bytes().as_chunks::<8>().0 else { return 1 };
    // Nothing but NULL has its number.
    u64::from_le_bytes(*bytes).max(1)
}

/// Tells whether two types write the same things in the same way, so that a cast between them changes no meaning.
pub(super) fn is_kin(a: &Column, b: &Column) -> bool {
    const FAMILIES: [&[&str]; 3] = [
        &["smallint", "integer", "bigint", "numeric", "real", "double precision"],
        &["text", "character varying", "bpchar"],
        &["json", "jsonb"],
    ];
    let family = |column: &Column| {
        let bare = column.bare.trim_end_matches("[]");
        FAMILIES.iter().position(|family| family.contains(&bare))
    };
    a.bare == b.bare || family(a).is_some() && family(a) == family(b)
}
