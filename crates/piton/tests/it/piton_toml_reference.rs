//! docs/piton-toml.md against the JSON Schema that `piton schema` prints: no key is missing, none is made up.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

const REFERENCE: &str = include_str!("../../../../docs/piton-toml.md");

#[test]
fn every_key_is_described_with_its_default_and_no_other() {
    let output = Command::new(env!("CARGO_BIN_EXE_piton")).arg("schema").output().unwrap();
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut keys = BTreeMap::new();
    collect(&schema, &schema, "", &mut keys);
    assert!(keys.len() > 35, "{keys:?}");

    let rows: BTreeMap<&str, &str> = REFERENCE.lines().filter_map(row).collect();
    let known: Vec<&str> = keys.keys().map(String::as_str).collect();
    let described: Vec<&str> = rows.keys().copied().collect();
    assert_eq!(known, described, "left: the schema's keys, right: the reference's");

    for (key, description) in &keys {
        // "Default: `10s`." in the type's own words.
        let Some((_, default)) = description.split_once("Default: `") else { continue };
        let default = default.split('`').next().unwrap();
        assert!(rows[key.as_str()].contains(&format!("`{default}`")), "{key}: the default is `{default}`");
    }
}

#[test]
fn every_usual_lint_rule_is_named_and_no_other() {
    let (_, lint) = REFERENCE.split_once("## [lint]").unwrap();
    let (_, list) = lint.split("\n## ").next().unwrap().rsplit_once("rules below |").unwrap();
    let mut named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    named.sort_unstable();
    let mut usual: Vec<String> = piton_db::lint::usual_rules().collect();
    usual.sort();
    assert_eq!(named, usual);
}

/// A row of a table: its key and all that follows.
fn row(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.strip_prefix("| `")?.split_once('`')?;
    Some((key, rest))
}

/// Walks the schema down to the keys that hold a value.
fn collect(root: &Value, schema: &Value, path: &str, keys: &mut BTreeMap<String, String>) {
    let at = |path: &str, key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let resolved = resolve(root, schema);
    if let Some(properties) = resolved.get("properties").and_then(Value::as_object) {
        for (key, property) in properties {
            collect(root, property, &at(path, key), keys);
        }
        return;
    }
    let inner = |schema: &Value| resolve(root, schema).get("properties").is_some();
    if let Some(item) = resolved.get("items").filter(|item| inner(item)) {
        return collect(root, item, &format!("{path}[]"), keys);
    }
    if let Some(named) = resolved.get("additionalProperties").filter(|named| inner(named)) {
        return collect(root, named, &at(path, "NAME"), keys);
    }
    let description = [schema, resolved].iter().find_map(|schema| schema.get("description")?.as_str());
    keys.insert(path.to_owned(), description.unwrap_or_default().to_owned());
    for option in resolved.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        if inner(option) {
            collect(root, option, path, keys);
        }
    }
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("a definition"),
        None => schema,
    }
}
