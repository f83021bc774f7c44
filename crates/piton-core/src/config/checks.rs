//! The checks of a configuration: which kind each one is and what it expects.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::Value;

use super::context::Context;
use super::model::{self, Expect};
use super::resolve::parse_path;
use super::settings::{
    Check, CheckKind, ColumnCheck, ForeignKey, HttpCheck, JsonExpectation, Scalar, SqlCheck, TableCheck,
    TableName,
};
use super::values::{ValueError, parse_duration};

/// Resolves the checks that are made in an environment; one that is unfit is left to the validation.
pub(super) fn resolve(file: &model::File, environment: &str, cx: &mut Context<'_>) -> Option<Vec<Check>> {
    let made_here =
        |check: &model::Check| check.on.as_ref().is_none_or(|on| on.iter().any(|name| name == environment));
    let checks: Vec<Option<Check>> = file
        .check
        .iter()
        .enumerate()
        .filter(|(_, check)| made_here(check))
        .map(|(i, check)| resolve_one(&format!("check[{i}]"), check, cx))
        .collect();
    checks.into_iter().collect()
}

fn resolve_one(path: &str, check: &model::Check, cx: &mut Context<'_>) -> Option<Check> {
    cx.note(&format!("{path}.name"), &check.name);
    let kind = if let Some(get) = &check.get {
        CheckKind::Http(http(path, get, check.expect.as_ref(), cx)?)
    } else if let Some(sql) = &check.sql {
        CheckKind::Sql(query(path, sql, check.expect.as_ref()?, cx)?)
    } else if let Some(command) = &check.command {
        CheckKind::Command(cx.required(&format!("{path}.command"), command, FromStr::from_str)?)
    } else {
        CheckKind::Table(table(path, check.table.as_ref()?, check, cx)?)
    };
    let within = cx.optional(&format!("{path}.within"), check.within.as_deref(), parse_duration)?;
    Some(Check { name: check.name.clone(), within, kind })
}

fn http(path: &str, get: &str, expect: Option<&Expect>, cx: &mut Context<'_>) -> Option<HttpCheck> {
    let get = cx.required(&format!("{path}.get"), get, parse_path);
    let answer = match expect {
        None => None,
        Some(Expect::Answer(answer)) => Some(answer),
        Some(_) => return None,
    };
    let status = answer.and_then(|answer| answer.status).unwrap_or(200);
    cx.note(&format!("{path}.expect.status"), status);
    let mut json = Vec::new();
    let mut complete = true;
    if let Some(body) = answer.and_then(|answer| answer.json.as_ref()) {
        for (key, value) in body {
            complete &=
                flatten(&format!("{path}.expect.json.{key}"), split(key), value, &mut json, cx).is_some();
        }
    }
    complete.then_some(HttpCheck { get: get?, status, json })
}

fn split(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

/// Collects the values below a key of the expected body, each with the whole way to it.
fn flatten(
    place: &str,
    way: Vec<String>,
    value: &Value,
    found: &mut Vec<JsonExpectation>,
    cx: &mut Context<'_>,
) -> Option<()> {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let mut way = way.clone();
                way.extend(split(key));
                flatten(&format!("{place}.{key}"), way, value, found, cx)?;
            }
        }
        Value::String(text) => {
            let value = Value::String(cx.text(place, text)?);
            found.push(JsonExpectation { path: way, value });
        }
        other => {
            cx.note(place, other);
            found.push(JsonExpectation { path: way, value: other.clone() });
        }
    }
    Some(())
}

fn query(path: &str, sql: &str, expect: &Expect, cx: &mut Context<'_>) -> Option<SqlCheck> {
    let sql = cx.text(&format!("{path}.sql"), sql);
    let place = format!("{path}.expect");
    let expect = match expect {
        Expect::Answer(_) => return None,
        Expect::Boolean(value) => Scalar::Boolean(*value),
        Expect::Integer(value) => Scalar::Integer(*value),
        Expect::Text(text) => {
            return Some(SqlCheck { expect: Scalar::Text(cx.text(&place, text)?), sql: sql? });
        }
    };
    cx.note(&place, &expect);
    Some(SqlCheck { sql: sql?, expect })
}

fn table(path: &str, name: &str, check: &model::Check, cx: &mut Context<'_>) -> Option<TableCheck> {
    let table = cx.required(&format!("{path}.table"), name, TableName::from_str);
    let columns = columns(&format!("{path}.columns"), check.columns.as_ref(), cx);
    let keys: Vec<Option<ForeignKey>> = check
        .foreign_keys
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, key)| foreign_key(&format!("{path}.foreign_keys[{i}]"), key, cx))
        .collect();
    for (key, names) in check.unique.iter().flatten().enumerate() {
        cx.note(&format!("{path}.unique[{key}]"), names.join(", "));
    }
    if let Some(names) = &check.primary_key {
        cx.note(&format!("{path}.primary_key"), names.join(", "));
    }
    Some(TableCheck {
        table: table?,
        columns: columns?,
        primary_key: check.primary_key.clone().unwrap_or_default(),
        unique: check.unique.clone().unwrap_or_default(),
        foreign_keys: keys.into_iter().collect::<Option<_>>()?,
    })
}

fn columns(
    path: &str,
    columns: Option<&BTreeMap<String, String>>,
    cx: &mut Context<'_>,
) -> Option<Vec<ColumnCheck>> {
    let columns: Vec<Option<ColumnCheck>> = columns
        .into_iter()
        .flatten()
        .map(|(name, text)| {
            cx.required(&format!("{path}.{name}"), text, |text| {
                let (data_type, nullable) = parse_column(text)?;
                Ok(ColumnCheck { name: name.clone(), data_type, nullable })
            })
        })
        .collect();
    columns.into_iter().collect()
}

/// Reads `text not null`: a type, and whether it takes NULL.
fn parse_column(text: &str) -> Result<(String, bool), ValueError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (data_type, nullable) = match &words[..] {
        [data_type @ .., not, null]
            if not.eq_ignore_ascii_case("not") && null.eq_ignore_ascii_case("null") =>
        {
            (data_type, false)
        }
        data_type => (data_type, true),
    };
    if data_type.is_empty() {
        return Err(ValueError::new(format!(
            "`{text}` is not a column: it is a type, and `not null` if so, like \"text not null\""
        )));
    }
    Ok((data_type.join(" "), nullable))
}

impl FromStr for TableName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name.to_owned()),
            None => (None, text.to_owned()),
        };
        if name.is_empty() || schema.as_ref().is_some_and(String::is_empty) || text.contains(['"', '(', ')'])
        {
            return Err(ValueError::new(format!(
                "`{text}` is not a table: it is its name as the catalog spells it, without quotes, like \"ReceiptData\" or \"public.ReceiptData\""
            )));
        }
        Ok(Self { schema, name })
    }
}

fn foreign_key(path: &str, key: &model::ForeignKey, cx: &mut Context<'_>) -> Option<ForeignKey> {
    let place = format!("{path}.references");
    let (table, referenced) = cx.required(&place, &key.references, parse_references)?;
    cx.note(&format!("{path}.columns"), key.columns.join(", "));
    if referenced.len() != key.columns.len() {
        cx.refuse(
            &place,
            format!(
                "`columns` names {} and `references` {}: they have to be as many",
                key.columns.len(),
                referenced.len()
            ),
        );
    }
    Some(ForeignKey {
        columns: key.columns.clone(),
        table,
        referenced,
        on_update: key.on_update.unwrap_or_default(),
        on_delete: key.on_delete.unwrap_or_default(),
    })
}

/// Reads `TokenPurchase(id)` or `billing.Invoice(tenant, id)`.
fn parse_references(text: &str) -> Result<(TableName, Vec<String>), ValueError> {
    let split = text.trim().strip_suffix(')').and_then(|text| text.split_once('('));
    let names = split.map(|(table, columns)| {
        (table.trim(), columns.split(',').map(|column| column.trim().to_owned()).collect::<Vec<_>>())
    });
    match names {
        Some((table, columns)) if columns.iter().all(|column| !column.is_empty()) => {
            Ok((table.parse()?, columns))
        }
        _ => Err(ValueError::new(format!(
            "`{text}` is not what a foreign key refers to: it is a table with its columns, like \"TokenPurchase(id)\""
        ))),
    }
}
