use std::collections::BTreeSet;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::super::{json_schema, structure};
use super::{FULL, SMALL};

/// Lists the paths of all keys that the schema names; `*` is a name of the user's choice.
fn keys_of_schema(root: &Value, schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        return keys_of_schema(root, root.pointer(reference.trim_start_matches('#')).unwrap(), path, keys);
    }
    for option in schema["anyOf"].as_array().into_iter().flatten() {
        keys_of_schema(root, option, path, keys);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        keys_of_schema(root, property, &path, keys);
        keys.insert(path);
    }
    keys_of_schema_below(root, &schema["additionalProperties"], &format!("{path}.*"), keys);
    keys_of_schema_below(root, &schema["items"], path, keys);
}

fn keys_of_schema_below(root: &Value, schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    if schema.is_object() {
        keys_of_schema(root, schema, path, keys);
    }
}

/// Lists the paths of all keys of the file, as [`keys_of_schema`] does.
fn keys_of_file(value: &DeValue<'_>, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                let chosen = [".environments", ".lint"].contains(&path)
                    || path.ends_with(".columns")
                    || path.ends_with(".json");
                let below = format!("{path}.{}", if chosen { "*" } else { key.get_ref() });
                keys_of_file(value.get_ref(), &below, keys);
                if !chosen {
                    keys.insert(below);
                }
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| keys_of_file(item.get_ref(), path, keys)),
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

/// Migrations are a word or a table of commands.
fn with_commands() -> String {
    let word = "migrations = \"sql\"";
    assert!(FULL.contains(word));
    FULL.replace(word, "migrations = { apply = \"rake db:migrate\", status = \"rake db:status\" }")
}

#[test]
fn the_schema_knows_every_key_that_the_types_take() {
    let (schema, with_commands) = (json_schema(), with_commands());
    let with_mask = FULL.replace(
        "{ from = \"production\" }",
        "{ from = \"production\", empty = [\"outbox\"], mask = \"mask.toml\" }",
    );
    let fresh = FULL.replace("{ from = \"production\" }", "{ fresh = true, seed = \"bin/seed\" }");
    let (mut in_schema, mut in_file) = (BTreeSet::new(), BTreeSet::new());
    keys_of_schema(&schema, &schema, "", &mut in_schema);
    for text in [FULL, SMALL, &with_commands, &with_mask, &fresh] {
        assert!(types_accept(text) && schema_accepts(text));
        let tree = DeTable::parse(text).unwrap();
        keys_of_file(&DeValue::Table(tree.get_ref().clone()), "", &mut in_file);
    }
    // The configuration of the tests uses every key there is.
    assert_eq!(in_schema, in_file);
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
        let text = FULL.replacen(inline, &inline.replacen('{', "{ surprise = 1,", 1), 1);
        assert!(!types_accept(&text) && !schema_accepts(&text), "{inline}");
    }
    let commands = with_commands().replacen("{ apply", "{ surprise = 1, apply", 1);
    assert!(!types_accept(&commands) && !schema_accepts(&commands));
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
