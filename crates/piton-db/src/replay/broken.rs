//! Rows that a constraint's own trigger alone would have noticed, which does not fire while rows are replayed.
//!
//! What the live database has watched over holds in the golden copy as well, but for rows that are not as there. All else is looked at
//! as a whole, before anybody waits; behind that look only what was written since can be broken.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::Client;

use super::apply::{Applier, as_parameters, keys};
use super::layout::{ForeignKey, Table};
use super::net::Key;
use super::sql;
use super::state::{self, SetAside};
use crate::error::Doing;
use crate::{DbError, quote};

/// How many rows of a place are remembered; where there are more, all of them are looked at again.
const MOST: usize = 100_000;

/// What a look has found, and what was written since.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The broken rows by constraint; `None` where they are too many, or have no key.
    broken: HashMap<String, Option<Vec<Key>>>,
    /// By place.
    since: HashMap<usize, Since>,
}

/// What was written to a place since a look.
#[derive(Debug, Default)]
struct Since {
    written: HashSet<Key>,
    /// The keys under which there may be no row any more.
    gone: HashSet<Key>,
    /// Whether it may be any row.
    all: bool,
}

impl Since {
    fn add(&mut self, key: &str, goes: bool, stands: bool) {
        if self.all {
            return;
        }
        if goes {
            self.gone.insert(key.to_owned());
        }
        if stands {
            self.written.insert(key.to_owned());
        }
        if self.written.len() + self.gone.len() > MOST {
            *self = Self { all: true, ..Self::default() };
        }
    }

    fn is_empty(&self) -> bool {
        !self.all && self.written.is_empty() && self.gone.is_empty()
    }
}

/// A constraint of the golden copy.
struct Constraint {
    /// Its name and its table's, which nothing else has.
    label: String,
    /// What is said of a row that breaks it.
    why: String,
    table: Table,
    /// The place that has the table's rows.
    place: usize,
    rule: Rule,
    /// Whether the live database keeps to it, so that rows are broken only where they are not as there.
    is_kept: bool,
}

/// What a constraint wants.
enum Rule {
    /// A row refers to another one, in this table and place.
    Refers(Box<ForeignKey>, Box<Table>, Option<usize>),
    /// No two rows have the same values of these columns.
    Differs(Vec<String>),
}

/// The rows of a constraint's table that may be broken.
enum Doubtful {
    All,
    /// Those with these keys, and those that refer to the rows with these.
    Rows {
        own: HashSet<Key>,
        of: HashSet<Key>,
    },
}

/// The rows that are aside, by place.
type AsideBy = HashMap<usize, HashSet<Key>>;

impl Constraint {
    fn set(&self, columns: &[String]) -> String {
        let set = columns.iter().map(|column| format!("g.{} is not null", quote::ident(column)));
        set.collect::<Vec<_>>().join(" and ")
    }

    /// Returns the condition that two rows of its table, `o` and `g`, have the same values.
    fn same(&self, columns: &[String]) -> String {
        let same = columns.iter().filter_map(|name| {
            let quoted = quote::ident(name);
            Some(self.table.column(name)?.same(&format!("o.{quoted}"), &format!("g.{quoted}")))
        });
        same.collect::<Vec<_>>().join(" and ")
    }

    /// Returns the condition that a row, `g`, is broken; one by one it is looked for by an index.
    fn is_broken(&self, one_by_one: bool, first_stays: bool) -> String {
        match &self.rule {
            Rule::Refers(foreign, to, _) => format!(
                "{} and not exists (select from {} p where {}{})",
                self.set(&foreign.columns),
                to.own_rows(),
                foreign.refers(|column| format!("p.{}", quote::ident(column))),
                // By `n`, it is asked of no row that is not among those of `n`.
                if one_by_one { " and n.i > 0 offset 0" } else { "" }
            ),
            Rule::Differs(columns) => format!(
                "exists (select from {} o where {} and (o.tableoid, o.ctid) {} (g.tableoid, g.ctid){})",
                self.table.own_rows(),
                self.same(columns),
                if first_stays { "<" } else { "<>" },
                if one_by_one { " offset 0" } else { "" }
            ),
        }
    }
}

impl Applier {
    /// Takes note, behind a look, that a row goes, or stands as written.
    pub(super) fn since_look(&mut self, place: usize, key: &str, goes: bool, stands: bool) {
        if let Some(looked) = &mut self.looked {
            looked.since.entry(place).or_default().add(key, goes, stands);
        }
    }

    /// Takes note, behind a look, that any row of a place may be written or go.
    pub(super) fn all_since_look(&mut self, place: usize) {
        if let Some(looked) = &mut self.looked {
            looked.since.insert(place, Since { all: true, ..Since::default() });
        }
    }

    /// Looks for broken rows, so that at the end only what was written since has to be looked at.
    pub(super) async fn look(&mut self, live: &Client) -> Result<(), DbError> {
        self.looked = None;
        let (constraints, aside) = (self.constraints(live).await?, self.aside_by_place().await?);
        let mut looked = Looked::default();
        for constraint in &constraints {
            let found = self.find(constraint, &self.doubtful(constraint, &aside), false).await?;
            let has_key = self.routes.map.places[constraint.place].key.is_some();
            let known = found.len() <= MOST && (has_key || found.is_empty());
            looked.broken.insert(constraint.label.clone(), known.then_some(found));
        }
        self.looked = Some(looked);
        Ok(())
    }

    /// Takes out of the golden copy the rows that break a constraint, and sets them aside.
    pub(super) async fn take_out_broken(&mut self, live: &Client) -> Result<(), DbError> {
        let constraints = self.constraints(live).await?;
        loop {
            let mut aside = self.aside_by_place().await?;
            let mut taken: HashMap<usize, Since> = HashMap::new();
            let mut any = false;
            let mut out = Vec::new();
            for constraint in &constraints {
                let doubtful = self.doubtful(constraint, &aside);
                for key in self.find(constraint, &doubtful, true).await? {
                    any = true;
                    let place = &self.routes.map.places[constraint.place];
                    let since = taken.entry(constraint.place).or_default();
                    if place.key.is_none() {
                        since.all = true;
                    } else {
                        since.add(&key, true, false);
                        // What stayed there as it was is aside already.
                        if !aside.entry(constraint.place).or_default().insert(key.clone()) {
                            continue;
                        }
                    }
                    let (name, why) = (place.table.quoted(), constraint.why.clone());
                    out.push(SetAside { place: name, key, why, of_migration: false });
                }
            }
            state::set_aside(&self.client, &out).await?;
            if !any {
                return Ok(());
            }
            // Now all that was broken is out, and only what referred to it may be broken.
            let none = constraints.iter().map(|constraint| (constraint.label.clone(), Some(Vec::new())));
            self.looked = Some(Looked { broken: none.collect(), since: taken });
        }
    }

    async fn aside_by_place(&self) -> Result<AsideBy, DbError> {
        let mut by_place = AsideBy::new();
        for row in state::aside(&self.client).await? {
            if let Some(place) = self.place_named(&row.place) {
                by_place.entry(place).or_default().insert(row.key);
            }
        }
        Ok(by_place)
    }

    /// Tells which rows may break a constraint.
    fn doubtful(&self, constraint: &Constraint, aside: &AsideBy) -> Doubtful {
        let place = constraint.place;
        let (foreign, to) = match &constraint.rule {
            Rule::Refers(foreign, _, to) => (Some(foreign), *to),
            Rule::Differs(_) => (None, None),
        };
        let aside_in = |place: Option<usize>| place.and_then(|place| aside.get(&place)).cloned();
        let (own_aside, to_aside) =
            (aside_in(Some(place)).unwrap_or_default(), aside_in(to).unwrap_or_default());
        // Whether the keys of the rows that are referred to are what is referred to.
        let by_key = foreign.zip(to).is_none_or(|(foreign, to)| {
            let to = &self.routes.map.places[to];
            let is_part = |name: &String| {
                let named = |at: &usize| to.table.columns[*at].name == *name;
                to.key.as_ref().is_some_and(|key| key.iter().any(named))
            };
            foreign.to_columns.iter().all(is_part)
        });
        let looked = self.looked.as_ref();
        let broken = looked.and_then(|looked| looked.broken.get(&constraint.label)?.as_ref());
        let (own, of) = match (looked.zip(broken), constraint.is_kept) {
            (None, false) => return Doubtful::All,
            (None, true) => (own_aside, to_aside),
            (Some((looked, broken)), is_kept) => {
                let nothing = Since::default();
                let since = |place: Option<usize>| {
                    place.and_then(|place| looked.since.get(&place)).unwrap_or(&nothing)
                };
                let (since, since_to) = (since(Some(place)), since(to));
                let mut own: HashSet<Key> = broken.iter().chain(&since.written).cloned().collect();
                match is_kept {
                    false if since.all || since_to.all || !(by_key || since_to.is_empty()) => {
                        return Doubtful::All;
                    }
                    false => (own, since_to.gone.clone()),
                    // What is as in the live database refers to what is there, unless that is aside.
                    true => {
                        own.extend(own_aside);
                        let of = match since.all || since_to.all || !(by_key || since_to.is_empty()) {
                            true => to_aside,
                            false => to_aside.intersection(&since_to.gone).cloned().collect(),
                        };
                        (own, of)
                    }
                }
            }
        };
        match of.is_empty() || by_key {
            true => Doubtful::Rows { own, of },
            false => Doubtful::All,
        }
    }

    /// Returns the keys of those doubtful rows that are broken, and takes them out if that is wanted.
    async fn find(
        &self,
        constraint: &Constraint,
        doubtful: &Doubtful,
        take_out: bool,
    ) -> Result<Vec<Key>, DbError> {
        let table = constraint.table.own_rows();
        let place = &self.routes.map.places[constraint.place];
        let key = place.key.clone().unwrap_or_default();
        let text = |at: &usize| format!("g.{}::text", quote::ident(&place.table.columns[*at].name));
        let told = match key.is_empty() {
            // As a row of the place, also where it lies in a partition.
            true => format!("array[((g.*)::{})::text]", place.table.quoted()),
            false => format!("array[{}]", key.iter().map(text).collect::<Vec<_>>().join(", ")),
        };
        let statement = |from: &str, condition: &str| match take_out {
            true => {
                let using = if from.is_empty() { String::new() } else { format!("using {from}") };
                format!("delete from {table} g {using} where {condition} returning {told}")
            }
            false => {
                let and = if from.is_empty() { "" } else { ", " };
                format!("select {told} from {table} g{and}{from} where {condition} limit {}", MOST + 1)
            }
        };
        // Single rows are found by an index, whatever the planner believes; many are read as it thinks best.
        let (by_index, as_planned) = ("off", "on");
        let mut asked: Vec<(String, &HashSet<Key>, usize, &str)> = Vec::new();
        let none = HashSet::new();
        match doubtful {
            Doubtful::Rows { own, of } => {
                let broken = constraint.is_broken(true, take_out);
                if !own.is_empty() && !key.is_empty() {
                    let (rows, is_it) = (sql::rows(&key, &[]), sql::same_key(place, &key));
                    let sql = match &constraint.rule {
                        Rule::Differs(columns) if take_out => {
                            // The other one goes, too, if the first is another.
                            let alike = format!(
                                "(select distinct o.tableoid, o.ctid from {table} g, {rows}, {table} o where {is_it} and {})",
                                constraint.same(columns)
                            );
                            let condition = format!("(g.tableoid, g.ctid) in {alike} and {broken}");
                            statement("", &condition)
                        }
                        _ => statement(&rows, &format!("{is_it} and {broken}")),
                    };
                    asked.push((sql, own, key.len(), by_index));
                }
                if let (Rule::Refers(foreign, _, Some(to)), false) = (&constraint.rule, of.is_empty()) {
                    let to = &self.routes.map.places[*to];
                    let to_key = to.key.clone().unwrap_or_default();
                    let value = |name: &str| {
                        let mut key = to_key.iter().enumerate();
                        let part = key.find(|(_, at)| to.table.columns[**at].name == name);
                        part.map_or_else(
                            || "null".to_owned(),
                            |(number, at)| format!("n.k{number}::{}", to.table.columns[*at].bare),
                        )
                    };
                    let condition = format!("{} and {broken}", foreign.refers(value));
                    let sql = statement(&sql::rows(&to_key, &[]), &condition);
                    asked.push((sql, of, to_key.len(), if foreign.indexed { by_index } else { as_planned }));
                }
            }
            Doubtful::All => {
                asked.push((statement("", &constraint.is_broken(false, take_out)), &none, 0, as_planned));
            }
        }
        let what = || format!("look for broken rows of {}", constraint.table.quoted());
        let mut found = Vec::new();
        for (sql, rows, width, planned) in asked {
            let plan =
                format!("set local enable_seqscan = {planned}; set local enable_mergejoin = {planned}");
            self.client.batch_execute(&plan).await.doing(what)?;
            let parameters = keys(width, rows.iter().map(String::as_str));
            for row in self.client.query(&sql, &as_parameters(&parameters)).await.doing(what)? {
                found.push(row.get::<_, Vec<String>>(0).join("\0"));
            }
        }
        // Without a key, two may look the same.
        if !key.is_empty() {
            found.sort_unstable();
            found.dedup();
        }
        Ok(found)
    }

    /// Lists the constraints that nothing has enforced while rows were replayed.
    async fn constraints(&self, live: &Client) -> Result<Vec<Constraint>, DbError> {
        let map = &self.routes.map;
        let mut constraints = Vec::new();
        let kept = unique(live, true).await?;
        for (oid, names) in unique(&self.client, false).await? {
            // The record is the tool's own, and what the backup has of it is whole.
            let Some((table, place)) = map.golden.table(oid).zip(self.place_of(oid)) else { continue };
            for (name, columns) in names {
                constraints.push(Constraint {
                    label: format!("{} {}", table.quoted(), quote::ident(&name)),
                    why: format!("another row has the same values ({})", quote::ident(&name)),
                    place,
                    is_kept: self.are_different(place, &columns, &kept),
                    rule: Rule::Differs(columns),
                    table: table.clone(),
                });
            }
        }
        for foreign in map.golden.foreign_keys.iter().filter(|key| key.valid) {
            let (Some(table), Some(to)) = (map.golden.table(foreign.table), map.golden.table(foreign.to))
            else {
                continue;
            };
            let Some(place) = self.place_of(foreign.table) else { continue };
            constraints.push(Constraint {
                label: format!("{} {}", table.quoted(), quote::ident(&foreign.name)),
                why: format!("it refers to a row that is not there ({})", quote::ident(&foreign.name)),
                table: table.clone(),
                place,
                is_kept: self.is_kept_live(foreign),
                rule: Rule::Refers(
                    Box::new(foreign.clone()),
                    Box::new(to.clone()),
                    self.place_of(foreign.to),
                ),
            });
        }
        Ok(constraints)
    }

    /// Returns the place that has the rows of a golden table.
    fn place_of(&self, oid: u32) -> Option<usize> {
        let map = &self.routes.map;
        let top = map.golden.table(oid).map(|table| map.golden.top(table).oid)?;
        map.places.iter().position(|place| place.table.oid == top)
    }

    /// Returns the live tables that have a place's rows in the end, with the columns that have become of these, where their values are
    /// the same as before if they are the same now.
    fn became(&self, place: usize, columns: &[String]) -> Option<Vec<(u32, Vec<String>)>> {
        const NUMBERS: [&str; 4] = ["smallint", "integer", "bigint", "numeric"];
        let map = &self.routes.map;
        let last = map.stages.len().checked_sub(1)?;
        let of = &map.places[place];
        let became = |(table, mapped): (&Table, &super::map::Mapped)| {
            let column = |name: &String| {
                let at = of.table.columns.iter().position(|column| column.name == *name)?;
                let (was, is) = (&of.table.columns[at], &table.columns[mapped.columns[at]?]);
                let number = |bare: &String| NUMBERS.contains(&bare.as_str());
                let alike = was.bare == is.bare || number(&was.bare) && number(&is.bare);
                (alike && !of.downs.contains_key(&at)).then(|| is.name.clone())
            };
            Some((table.oid, columns.iter().map(column).collect::<Option<Vec<_>>>()?))
        };
        map.sources(last, place).map(became).collect()
    }

    /// Tells whether the live database has seen to it, up to the end, that no two rows of a place have the same values.
    fn are_different(&self, place: usize, columns: &[String], kept: &Unique) -> bool {
        let Some(became) = self.became(place, columns).filter(|_| !self.is_own(place)) else { return false };
        let whole = |(oid, columns): &(u32, Vec<String>)| {
            let columns: HashSet<&String> = columns.iter().collect();
            let same = |(_, kept): &(String, Vec<String>)| kept.iter().collect::<HashSet<_>>() == columns;
            kept.get(oid).is_some_and(|kept| kept.iter().any(same))
        };
        let top = |(oid, _): &&(u32, Vec<String>)| {
            let last = self.routes.map.stages.last();
            last.and_then(|last| last.table(*oid)).is_some_and(|table| table.root.is_none())
        };
        let tops: Vec<_> = became.iter().filter(top).collect();
        matches!(&tops[..], [one] if whole(one))
    }

    /// Tells whether the live database has watched over a foreign key to its end, of rows that are as there.
    fn is_kept_live(&self, foreign: &ForeignKey) -> bool {
        let map = &self.routes.map;
        let Some(last) = map.stages.last() else { return false };
        let (Some(from), Some(to)) = (self.place_of(foreign.table), self.place_of(foreign.to)) else {
            return false;
        };
        if self.is_own(from) || self.is_own(to) {
            return false;
        }
        let (Some(from), Some(to)) =
            (self.became(from, &foreign.columns), self.became(to, &foreign.to_columns))
        else {
            return false;
        };
        last.foreign_keys.iter().any(|kept| {
            let pairs = |columns: &[String], others: &[String]| -> HashSet<(String, String)> {
                columns.iter().cloned().zip(others.iter().cloned()).collect()
            };
            kept.valid
                && from.iter().any(|(oid, columns)| {
                    *oid == kept.table
                        && to.iter().any(|(oid, to_columns)| {
                            *oid == kept.to
                                && pairs(columns, to_columns) == pairs(&kept.columns, &kept.to_columns)
                        })
                })
        })
    }
}

/// Unique indexes by table: their names and columns.
type Unique = BTreeMap<u32, Vec<(String, Vec<String>)>>;

/// Reads the unique indexes of whole columns: all of them, or those that are looked at when a transaction ends.
async fn unique(client: &Client, all: bool) -> Result<Unique, DbError> {
    let what = || "look for unique constraints".to_owned();
    let rows = client
        .query(
            "select i.indrelid, c.relname::text,
                    array(select a.attname::text from pg_catalog.unnest(i.indkey) with ordinality k(number, at)
                          join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                          where k.at <= i.indnkeyatts order by k.at)
             from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
             where i.indisunique and ($1 or not i.indimmediate) and i.indisvalid and i.indpred is null and i.indexprs is null
             order by i.indexrelid",
            &[&all],
        )
        .await
        .doing(what)?;
    let mut unique = Unique::new();
    for row in rows {
        unique.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
    }
    Ok(unique)
}
