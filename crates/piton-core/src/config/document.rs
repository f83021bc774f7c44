//! The text of a configuration and where each of its keys and values stands.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};

/// The text of `piton.toml` and the place of every key and value in it.
///
/// A place is found by the key's path from the top, as people write it: `run.ready.get`, `check[0].name`.
#[derive(Clone, Debug)]
pub(super) struct Document {
    name: String,
    text: String,
    places: BTreeMap<String, Place>,
}

#[derive(Clone, Debug)]
struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

impl Document {
    pub(super) fn new(name: &str, text: &str, tree: &Spanned<DeTable<'_>>) -> Self {
        let mut places = BTreeMap::new();
        collect_table("", tree.get_ref(), &mut places);
        Self { name: name.to_owned(), text: text.to_owned(), places }
    }

    /// Tells whether the file says anything at this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// Returns the place of the key, or of the nearest table above it that is in the file.
    pub(super) fn key(&self, path: &str) -> Option<Range<usize>> {
        self.nearest(path).map(|place| place.key.clone())
    }

    /// Returns the place of the value, or the key of the nearest table above it that is in the file.
    pub(super) fn value(&self, path: &str) -> Option<Range<usize>> {
        match self.places.get(path) {
            Some(place) => Some(place.value.clone()),
            None => self.key(path),
        }
    }

    /// Returns the line of the value, counted from 1.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        let start = self.places.get(path)?.key.start;
        Some(1 + self.text.bytes().take(start).filter(|&byte| byte == b'\n').count())
    }

    pub(super) fn error(&self, problems: Vec<Problem>) -> ConfigError {
        ConfigError::in_file(&self.name, &self.text, problems)
    }

    fn nearest(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// Returns the path of a key within a table.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

fn collect_table(path: &str, table: &DeTable<'_>, places: &mut BTreeMap<String, Place>) {
    for (key, value) in table {
        collect(join(path, key.get_ref()), key.span(), value, places);
    }
}

fn collect(
    path: String,
    key: Range<usize>,
    value: &Spanned<DeValue<'_>>,
    places: &mut BTreeMap<String, Place>,
) {
    match value.get_ref() {
        DeValue::Table(table) => collect_table(&path, table, places),
        DeValue::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(format!("{path}[{i}]"), item.span(), item, places);
            }
        }
        _ => {}
    }
    places.insert(path, Place { key, value: value.span() });
}
