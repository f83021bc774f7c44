//! The statements by which rows of a place are written and looked for.

use std::collections::BTreeSet;

use super::layout::Column;
use super::map::Place;
use super::route::{Conversion, Form};
use crate::quote;

/// Types without an equality, or whose equality is none of the text's.
const COMPARED_AS_TEXT: [&str; 9] =
    ["json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"];

/// Which columns of a place a group of rows tells of, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) form: usize,
    /// The columns besides the key.
    pub(super) columns: Vec<usize>,
    /// Those of them whose value was written, though it may be what the migration has made of the old one.
    pub(super) rewritten: BTreeSet<usize>,
}

/// Returns `unnest($1::text[], ...) with ordinality n(k0, k1, c3, i)`: the key's columns, then those of the shape.
pub(super) fn rows(key: &[usize], columns: &[usize]) -> String {
    let count = key.len() + columns.len();
    let parameters: Vec<String> = (1..=count).map(|at| format!("${at}::text[]")).collect();
    let keys = (0..key.len()).map(|at| format!("k{at}"));
    let names: Vec<String> = keys.chain(columns.iter().map(|at| format!("c{at}"))).collect();
    format!("rows from (unnest({})) with ordinality n({}, i)", parameters.join(", "), names.join(", "))
}

/// Returns the condition that a row of the place, `g`, has the key of `n`.
pub(super) fn same_key(place: &Place, key: &[usize]) -> String {
    let column = |(at, column): (usize, &usize)| {
        let column = &place.table.columns[*column];
        column.same(&format!("g.{}", quote::ident(&column.name)), &format!("n.k{at}::{}", column.bare))
    };
    key.iter().enumerate().map(column).collect::<Vec<_>>().join(" and ")
}

/// Returns the value that a column is given, from the text `from`.
fn value(column: &Column, conversion: &Conversion, from: &str) -> String {
    match conversion.of_text() {
        Conversion::Same | Conversion::Text | Conversion::Down { .. } => format!("{from}::{}", column.bare),
        Conversion::Cast { bare, .. } if *bare == column.bare => format!("{from}::{bare}"),
        Conversion::Cast { bare, .. } => format!("{from}::{bare}::{}", column.bare),
    }
}

/// Returns the condition that two values of a type are the same, NULL included.
pub(super) fn same(a: &str, b: &str, bare: &str) -> String {
    match COMPARED_AS_TEXT.contains(&bare.trim_end_matches("[]")) {
        true => format!("({a})::text is not distinct from ({b})::text"),
        false => format!("({a}) is not distinct from ({b})"),
    }
}

/// Returns the condition that the golden row's value is what the live one was made from: it stays then, with what it held more.
///
/// As texts: values that are equal may be different ones, as 0 and -0, or a month and thirty days.
fn unchanged(column: &Column, bare: &str, full: &str, from: &str) -> String {
    format!("(g.{}::{full})::text is not distinct from ({from}::{bare})::text", quote::ident(&column.name))
}

/// Removes rows.
pub(super) fn delete(place: &Place, key: &[usize]) -> String {
    format!(
        "delete from {} g using {} where {}",
        place.table.own_rows(),
        rows(key, &[]),
        same_key(place, key)
    )
}

/// Changes rows where they are.
pub(super) fn update(place: &Place, key: &[usize], shape: &Shape, form: &Form) -> String {
    let set = |at: &usize| {
        let column = &place.table.columns[*at];
        let (name, from) = (quote::ident(&column.name), format!("n.c{at}"));
        let conversion = form[*at].as_ref()?;
        let value = value(column, conversion, &from);
        Some(match conversion.of_text() {
            Conversion::Cast { bare, full, back: true } if !shape.rewritten.contains(at) => {
                format!(
                    "{name} = case when {} then g.{name} else {value} end",
                    unchanged(column, bare, full, &from)
                )
            }
            _ => format!("{name} = {value}"),
        })
    };
    let set: Vec<String> = shape.columns.iter().filter_map(set).collect();
    format!(
        "update {} g set {} from {} where {}",
        place.table.own_rows(),
        set.join(", "),
        rows(key, &shape.columns),
        same_key(place, key)
    )
}

/// Puts rows, in the place of those with their keys.
pub(super) fn put(place: &Place, key: &[usize], shape: &Shape, form: &Form) -> String {
    let columns = key.iter().enumerate().map(|(at, column)| (*column, format!("n.k{at}")));
    let columns = columns.chain(shape.columns.iter().map(|at| (*at, format!("n.c{at}"))));
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (at, from) in columns {
        let column = &place.table.columns[at];
        if let Some(conversion) = &form[at] {
            names.push(quote::ident(&column.name));
            values.push(value(column, conversion, &from));
        }
    }
    let keys: Vec<String> = key.iter().map(|at| quote::ident(&place.table.columns[*at].name)).collect();
    let set = |at: &usize| {
        let name = quote::ident(&place.table.columns[*at].name);
        format!("{name} = excluded.{name}")
    };
    let set: Vec<String> = shape.columns.iter().map(set).collect();
    let conflict = match (keys.is_empty(), set.is_empty()) {
        (true, _) => String::new(),
        (_, true) => format!("on conflict ({}) do nothing", keys.join(", ")),
        _ => format!("on conflict ({}) do update set {}", keys.join(", "), set.join(", ")),
    };
    format!(
        "insert into {} ({}) overriding system value select {} from {} order by n.i {conflict}",
        place.table.quoted(),
        names.join(", "),
        values.join(", "),
        rows(key, &shape.columns)
    )
}

/// Finds the rows, by their position from 1, that are not in the place.
pub(super) fn missing(place: &Place, key: &[usize]) -> String {
    format!(
        "select n.i from {} where not exists (select from {} g where {})",
        rows(key, &[]),
        place.table.own_rows(),
        same_key(place, key)
    )
}

/// Finds the rows whose values the place cannot hold without a loss that no error tells of; `None` when all are taken as they are.
///
/// A cast rounds, cuts off and forgets in silence. What is only the golden row's own value, as the migration changed it, is no loss.
pub(super) fn lossy(place: &Place, key: &[usize], shape: &Shape, form: &Form) -> Option<String> {
    let is_lost = |at: &usize| {
        let column = &place.table.columns[*at];
        let Conversion::Cast { bare, full, back } = form[*at].as_ref()?.of_text() else { return None };
        // Equal values of jsonb may have been different texts of json, and are all that the old structure ever kept.
        if column.bare == "jsonb" {
            return None;
        }
        let from = format!("n.c{at}");
        let value = value(column, form[*at].as_ref()?, &from);
        let kept = match back {
            true => same(&format!("({value})::{}::{bare}", column.full), &format!("{from}::{bare}"), bare),
            false => same(&format!("({value})::{}", column.full), &value, &column.bare),
        };
        Some(match *back && !shape.rewritten.contains(at) {
            true => format!("not ({kept} or coalesce({}, false))", in_row(column, bare, full, &from)),
            false => format!("not ({kept})"),
        })
    };
    let lost: Vec<String> = shape.columns.iter().filter_map(is_lost).collect();
    (!lost.is_empty()).then(|| {
        format!(
            "select n.i from {} left join {} g on {} where {}",
            rows(key, &shape.columns),
            place.table.own_rows(),
            if key.is_empty() { "false".into() } else { same_key(place, key) },
            lost.join(" or ")
        )
    })
}

fn in_row(column: &Column, bare: &str, full: &str, from: &str) -> String {
    let name = quote::ident(&column.name);
    format!("g.{name} is not null and {}", unchanged(column, bare, full, from))
}

/// Reads columns of rows as text, with their position from 1.
pub(super) fn read(place: &Place, key: &[usize], columns: &[usize]) -> String {
    let texts =
        columns.iter().map(|at| format!(", g.{}::text", quote::ident(&place.table.columns[*at].name)));
    format!(
        "select n.i{} from {} join {} g on {}",
        texts.collect::<String>(),
        rows(key, &[]),
        place.table.own_rows(),
        same_key(place, key)
    )
}

/// Removes, or changes, one of the rows that are as told in all of these columns, each of which is NULL or is not: of a table without a
/// key.
pub(super) fn one_like(
    place: &Place,
    columns: &[(usize, bool)],
    form: &Form,
    set: Option<&[usize]>,
) -> String {
    let mut parameter = 0;
    let mut next = || {
        parameter += 1;
        format!("${parameter}::text")
    };
    let mut alike = Vec::new();
    for (at, is_null) in columns {
        let column = &place.table.columns[*at];
        let Some(conversion) = &form[*at] else { continue };
        let (own, parameter) = (format!("g.{}", quote::ident(&column.name)), next());
        if *is_null {
            alike.push(format!("{own} is null and {parameter} is null"));
            continue;
        }
        let told = value(column, conversion, &parameter);
        // By its own equality, which is quick, and which an index knows, if there is one on any of the columns.
        alike.extend(column.equal.as_ref().map(|_| column.same(&own, &told)));
        // As texts: the row as it was, and types without an equality.
        alike.push(format!("({own})::text = ({told})::text"));
    }
    let table = place.table.own_rows();
    let one = format!(
        "(select g.tableoid, g.ctid from {table} g where {} limit 1)",
        if alike.is_empty() { "true".into() } else { alike.join(" and ") }
    );
    match set {
        None => format!("delete from {table} where (tableoid, ctid) = {one}"),
        Some(set) => {
            let set = set.iter().filter_map(|at| {
                let column = &place.table.columns[*at];
                let value = value(column, form[*at].as_ref()?, &next());
                Some(format!("{} = {value}", quote::ident(&column.name)))
            });
            let set = set.collect::<Vec<_>>().join(", ");
            format!("update {table} set {set} where (tableoid, ctid) = {one}")
        }
    }
}
