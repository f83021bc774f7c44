use std::collections::BTreeSet;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::super::{json_schema, structure};
use super::{FULL, SMALL};

/// Lists all keys that tables of the schema name.
fn keys_of_schema(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| keys_of_schema(value, keys));
        }
        Value::Array(items) => items.iter().for_each(|item| keys_of_schema(item, keys)),
        _ => {}
    }
}

fn keys_of_file(value: &DeValue<'_>, keys: &mut BTreeSet<String>) {
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                keys.insert(key.get_ref().to_string());
                keys_of_file(value.get_ref(), keys);
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| keys_of_file(item.get_ref(), keys)),
        _ => {}
    }
}

/// The types refuse unknown keys by themselves: what the schema lets pass and they do not would be a gap, and the reverse.
fn types_accept(text: &str) -> bool {
    toml::from_str::<super::super::model::File>(text).is_ok()
}

fn schema_accepts(text: &str) -> bool {
    structure::check(&json_schema(), &DeTable::parse(text).unwrap()).is_empty()
}

#[test]
fn the_schema_knows_every_key_that_the_types_take() {
    assert!(types_accept(FULL) && schema_accepts(FULL) && types_accept(SMALL) && schema_accepts(SMALL));
    let mut in_schema = BTreeSet::new();
    keys_of_schema(&json_schema(), &mut in_schema);
    let mut in_file = BTreeSet::new();
    let tree = DeTable::parse(FULL).unwrap();
    keys_of_file(&DeValue::Table(tree.get_ref().clone()), &mut in_file);
    // The configuration of the tests uses every key, so that nothing that the schema names goes untested.
    let extra = format!("{FULL}rollout = {{}}\n");
    assert!(in_schema.is_subset(&in_file), "not used: {:?}", in_schema.difference(&in_file));
    assert!(!schema_accepts(&extra));
}

#[test]
fn types_and_schema_refuse_the_same_keys() {
    let tables = [
        "[build]",
        "[run]",
        "[database]",
        "[rollout]",
        "[gate]",
        "[secrets]",
        "[environments.staging]",
        "[[check]]",
    ];
    for table in tables {
        let text = FULL.replacen(table, &format!("{table}\nsurprise = 1"), 1);
        assert!(!types_accept(&text) && !schema_accepts(&text), "{table}");
    }
    for inline in ["{ get = \"/api", "{ from", "{ keep", "{ blue = 3101", "{ status = 200", "{ columns"] {
        assert!(FULL.contains(inline), "{inline}");
        let text =
            FULL.replacen('{', "{", 1).replacen(inline, &inline.replacen('{', "{ surprise = 1,", 1), 1);
        assert!(!types_accept(&text) && !schema_accepts(&text), "{inline}");
    }
    let top = format!("surprise = 1\n{FULL}");
    assert!(!types_accept(&top) && !schema_accepts(&top));
}

#[test]
fn every_key_is_described() {
    fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (name, property) in properties {
                if property.get("description").is_none() {
                    found.push(format!("{path}.{name}"));
                }
            }
        }
        if let Some(Value::Object(definitions)) = schema.get("$defs") {
            for (name, definition) in definitions {
                undescribed(name, definition, found);
            }
        }
    }
    let mut found = Vec::new();
    undescribed("", &json_schema(), &mut found);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_schema_is_a_contract() {
    let schema = json_schema();
    assert_eq!(schema["additionalProperties"], Value::Bool(false));
    assert!(!schema.to_string().contains("\"null\""));
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema).unwrap());
}
