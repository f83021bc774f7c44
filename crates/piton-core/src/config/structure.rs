//! Compares a file with the JSON Schema of its types, so that all unknown keys are reported at once, with their places.

use std::ops::Range;

use serde_json::Value as Schema;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::join;
use super::error::{Problem, listed, nearest};

/// What a schema says that says nothing.
static ANYTHING: Schema = Schema::Bool(true);

/// Lists every unknown key, missing key and value of a wrong type.
pub(super) fn check(schema: &Schema, tree: &Spanned<DeTable<'_>>) -> Vec<Problem> {
    let mut walk = Walk { root: schema, problems: Vec::new() };
    walk.table(schema, tree.get_ref(), tree.span(), "");
    walk.problems
}

struct Walk<'a> {
    root: &'a Schema,
    problems: Vec<Problem>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, schema: &'a Schema, value: &Spanned<DeValue<'_>>, path: &str) {
        let options = alternatives(self.root, schema);
        let found = kind(value.get_ref());
        let Some(schema) = options.iter().copied().find(|option| accepts(option, found)) else {
            let expected: Vec<&str> =
                options.iter().filter_map(|option| kind_of(option)).map(words).collect();
            let expected = if expected.is_empty() {
                "something that JSON has".to_owned()
            } else {
                expected.join(" or ")
            };
            let message = format!("`{path}` is {}, where {expected} is expected", words(found));
            self.problems.push(with_description(Problem::new(message).at(Some(value.span()), ""), schema));
            return;
        };
        match value.get_ref() {
            DeValue::Table(table) => self.table(schema, table, value.span(), path),
            DeValue::Array(items) => {
                let item_schema = schema.get("items").unwrap_or(&ANYTHING);
                for (i, item) in items.iter().enumerate() {
                    self.value(item_schema, item, &format!("{path}[{i}]"));
                }
            }
            DeValue::String(text) => self.word(schema, text, value.span(), path),
            DeValue::Integer(number) => {
                self.number(schema, number.as_str(), number.radix(), value.span(), path);
            }
            _ => {}
        }
    }

    fn table(&mut self, schema: &'a Schema, table: &DeTable<'_>, span: Range<usize>, path: &str) {
        let known = properties(schema);
        let any_key = schema.get("additionalProperties").unwrap_or(&ANYTHING);
        let any_key = Some(any_key).filter(|schema| **schema != Schema::Bool(false));
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if let Some((_, property)) = known.iter().find(|(known, _)| *known == name) {
                self.value(property, value, &join(path, name));
            } else if let Some(any) = any_key {
                self.value(any, value, &join(path, name));
            } else {
                self.problems.push(self.unknown_key(name, key.span(), path, &known));
            }
        }
        let required = schema.get("required").and_then(Schema::as_array).into_iter().flatten();
        for name in required.filter_map(Schema::as_str).filter(|name| !table.contains_key(*name)) {
            let description = known.iter().find(|(known, _)| *known == name).map(|(_, property)| *property);
            let problem = Problem::new(format!("`{}` is missing", join(path, name)))
                .at(Some(span.clone()).filter(|span| !span.is_empty()), "in here");
            self.problems.push(with_description(problem, description.unwrap_or(&Schema::Null)));
        }
    }

    fn unknown_key(
        &self,
        name: &str,
        span: Range<usize>,
        path: &str,
        known: &[(&'a str, &'a Schema)],
    ) -> Problem {
        let place = if path.is_empty() { "at the top".to_owned() } else { format!("in `{path}`") };
        let names = || known.iter().map(|(name, _)| *name);
        let problem = Problem::new(format!("unknown key `{name}` {place}"));
        let mut homes = Vec::new();
        collect_homes(self.root, self.root, "", name, &mut homes);
        let label = match (nearest(name, names()), &homes[..]) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, [home]) => format!("`{name}` belongs in `{home}`"),
            (None, _) => "not a key here".to_owned(),
        };
        problem.at(Some(span), label).help(format!("there is: {}", listed(names())))
    }

    /// Checks a text that has to be one of a few words.
    fn word(&mut self, schema: &'a Schema, text: &str, span: Range<usize>, path: &str) {
        let words = choices(schema);
        if words.is_empty() || words.contains(&text) {
            return;
        }
        let label = nearest(text, words.iter().copied());
        let label = label.map_or("not known".to_owned(), |near| format!("did you mean `{near}`?"));
        let problem = Problem::new(format!("`{path}` cannot be `{text}`"));
        self.problems.push(problem.at(Some(span), label).help(format!("there is: {}", listed(words))));
    }

    fn number(&mut self, schema: &'a Schema, digits: &str, radix: u32, span: Range<usize>, path: &str) {
        let bound = |name: &str| schema.get(name).and_then(Schema::as_i64);
        let least = bound("minimum").unwrap_or(i64::MIN);
        let most = bound("maximum").unwrap_or_else(|| match schema.get("format").and_then(Schema::as_str) {
            Some("uint32") => i64::from(u32::MAX),
            _ => i64::MAX,
        });
        if i64::from_str_radix(digits, radix).is_ok_and(|number| (least..=most).contains(&number)) {
            return;
        }
        let problem = Problem::new(format!("`{path}` is out of range"));
        self.problems.push(problem.at(Some(span), format!("a number from {least} to {most} is expected")));
    }
}

/// Returns the schemas that a value may fit, with references followed and `null`, which TOML has not, left out.
fn alternatives<'a>(root: &'a Schema, schema: &'a Schema) -> Vec<&'a Schema> {
    if let Some(reference) = schema.get("$ref").and_then(Schema::as_str) {
        let target = root.pointer(reference.trim_start_matches('#'));
        return target.map(|target| alternatives(root, target)).unwrap_or_default();
    }
    match schema.get("anyOf").and_then(Schema::as_array) {
        Some(options) => options.iter().flat_map(|option| alternatives(root, option)).collect(),
        None => vec![schema],
    }
}

fn properties(schema: &Schema) -> Vec<(&str, &Schema)> {
    let properties = schema.get("properties").and_then(Schema::as_object);
    properties.into_iter().flatten().map(|(name, property)| (name.as_str(), property)).collect()
}

/// Returns the words that a text may be; empty when it may be any.
fn choices(schema: &Schema) -> Vec<&str> {
    let list = |key: &str| schema.get(key).and_then(Schema::as_array).into_iter().flatten();
    let described = list("oneOf").filter_map(|option| option.get("const"));
    list("enum").chain(described).filter_map(Schema::as_str).collect()
}

/// Lists the tables that have a key of this name.
fn collect_homes(root: &Schema, schema: &Schema, path: &str, name: &str, homes: &mut Vec<String>) {
    for schema in alternatives(root, schema) {
        for (key, property) in properties(schema) {
            if key == name && !path.is_empty() {
                homes.push(path.to_owned());
            }
            collect_homes(root, property, &join(path, key), name, homes);
        }
        if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
            collect_homes(root, any, &join(path, "NAME"), name, homes);
        }
        if let Some(items) = schema.get("items") {
            collect_homes(root, items, path, name, homes);
        }
    }
}

fn with_description(problem: Problem, schema: &Schema) -> Problem {
    match schema.get("description").and_then(Schema::as_str) {
        Some(description) => problem.help(description),
        None => problem,
    }
}

fn accepts(schema: &Schema, found: &str) -> bool {
    // A schema without a type takes any value that JSON has too.
    kind_of(schema).map_or(found != "datetime" && found != "nan", |expected| {
        expected == found || (expected == "number" && found == "integer")
    })
}

fn kind_of(schema: &Schema) -> Option<&str> {
    match schema.get("type") {
        Some(kind) => kind.as_str(),
        None if !choices(schema).is_empty() => Some("string"),
        None => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(float) if float.as_str().parse().is_ok_and(f64::is_finite) => "number",
        DeValue::Float(_) => "nan",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "datetime",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
    }
}

fn words(kind: &str) -> &str {
    match kind {
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a table",
        "datetime" => "a date",
        _ => "no number",
    }
}
