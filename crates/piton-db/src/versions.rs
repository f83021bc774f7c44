//! Versions that a database was made with and that a server may have others of: its extensions' and its collations'.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::fingerprint::{Change, Structure};
use crate::{DbError, quote};

/// The versions of collations, by `database` or by quoted name; what sorts by bytes has none.
pub type Collations = BTreeMap<String, String>;

/// Something that a copy has in another version than its original.
///
/// Prints as `extension hstore is 1.8, and was 1.7`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherVersion {
    /// `extension hstore`, `collation public.swedish`, or `the database's collation`.
    pub what: String,
    /// The original's.
    pub was: String,
    /// The copy's.
    pub is: String,
}

impl fmt::Display for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, and was {}", self.what, self.is, self.was)
    }
}

impl OtherVersion {
    /// Tells whether it is an extension.
    pub fn is_extension(&self) -> bool {
        self.what.starts_with(EXTENSION)
    }
}

const EXTENSION: &str = "extension ";

/// An extension as the listing has it: its quoted name, its version, and its quoted schema.
fn extension<'a>(object: &'a str, definition: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
    let (version, schema) = definition.strip_prefix("version ")?.split_once(" in ")?;
    Some((object.strip_prefix(EXTENSION)?, version, schema))
}

/// Schemas that are there before a restore begins.
const AT_ONCE: [&str; 2] = ["public", "pg_catalog"];

/// Creates in a new database those extensions that a restore would create in another version: it takes the server's own.
///
/// A server that was upgraded has newer ones than its databases, until somebody updates them there. An extension in a schema
/// that is yet to be restored is left to the restore, and so is what cannot be made: the comparison tells it.
pub(crate) async fn create_extensions(
    client: &Client,
    structure: &Structure,
    left_out: impl Fn(&str) -> bool,
) -> Result<(), DbError> {
    let objects = structure.0.iter().filter(|(object, _)| !left_out(object));
    let wanted = objects.filter_map(|(object, definition)| extension(object, definition));
    let mut wanted: Vec<_> = wanted.filter(|(_, _, schema)| AT_ONCE.contains(schema)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let rows = client
        .query(
            "select pg_catalog.quote_ident(v.name::text), v.version, v.version <> a.default_version
             from pg_catalog.pg_available_extension_versions v
             join pg_catalog.pg_available_extensions a on a.name = v.name
             where a.installed_version is null",
            &[],
        )
        .await
        .doing(|| "list the extensions' versions".into())?;
    let can: BTreeMap<(String, String), bool> =
        rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    let other = |name: &str, version: &str| can.get(&(name.to_owned(), version.to_owned())).copied();
    wanted.retain(|(name, version, _)| other(name, version).is_some());
    if !wanted.iter().any(|(name, version, _)| other(name, version) == Some(true)) {
        return Ok(());
    }
    // One may need another, which `cascade` would make in the wrong version: those that fail are tried again after the rest.
    loop {
        let mut left = Vec::new();
        for &(name, version, schema) in &wanted {
            let version = quote::literal(version);
            let create = format!("create extension {name} with schema {schema} version {version}");
            if client.batch_execute(&create).await.is_err() {
                left.push((name, version, schema));
            }
        }
        if left.len() == wanted.len() || left.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = left.iter().map(|(name, _, _)| *name).collect();
        wanted.retain(|(name, _, _)| names.contains(name));
    }
}

/// Takes out of a list of changes those of an extension's version alone.
pub(crate) fn other_extensions(changes: Vec<Change>) -> (Vec<OtherVersion>, Vec<Change>) {
    let mut versions = Vec::new();
    let others = changes.into_iter().filter(|change| match of_version(change) {
        Some(version) => {
            versions.push(version);
            false
        }
        None => true,
    });
    let others = others.collect();
    (versions, others)
}

fn of_version(change: &Change) -> Option<OtherVersion> {
    let Change::Changed { object, from, to } = change else { return None };
    let ((_, was, schema), (_, is, now)) = (extension(object, from)?, extension(object, to)?);
    (schema == now).then(|| OtherVersion { what: object.clone(), was: was.to_owned(), is: is.to_owned() })
}

/// Reads with which versions of its collations a database was filled.
pub(crate) async fn collations(client: &Client) -> Result<Collations, DbError> {
    read_collations(client, "c.collversion").await
}

/// Reads which versions of a copy's collations the server has.
pub(crate) async fn own_collations(client: &Client) -> Result<Collations, DbError> {
    // A collation of the server's own comes with the template, as it was noted there.
    read_collations(client, "pg_catalog.pg_collation_actual_version(c.oid)").await
}

async fn read_collations(client: &Client, version: &str) -> Result<Collations, DbError> {
    let query = format!(
        "select 'database', pg_catalog.to_jsonb(d) ->> 'datcollversion' from pg_catalog.pg_database d
         where d.datname = pg_catalog.current_database()
         union all
         select c.oid::pg_catalog.regcollation::text, {version} from pg_catalog.pg_collation c
         where c.collversion is not null and exists (
           select from pg_catalog.pg_attribute a where a.attrelid >= 16384 and a.attcollation = c.oid)"
    );
    let rows = client.query(&query, &[]).await.doing(|| "read the collations' versions".into())?;
    Ok(rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<String>>(1)?))).collect())
}

/// Compares the collations of a copy with its original's.
pub(crate) fn other_collations(was: &Collations, is: &Collations) -> Vec<OtherVersion> {
    let both = was.iter().filter_map(|(name, was)| Some((name, was, is.get(name)?)));
    both.filter(|(_, was, is)| was != is)
        .map(|(name, was, is)| OtherVersion {
            what: match name.as_str() {
                "database" => "the database's collation".into(),
                name => format!("collation {name}"),
            },
            was: was.clone(),
            is: is.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_of_another_version_is_no_other_object() {
        let changed = |object: &str, from: &str, to: &str| Change::Changed {
            object: object.into(),
            from: from.into(),
            to: to.into(),
        };
        let moved = changed("extension citext", "version 1.6 in public", "version 1.6 in a");
        let column = changed("column public.t.a", "text", "integer");
        let newer =
            changed("extension \"uuid-ossp\"", "version 1.0 in \"x in y\"", "version 1.1 in \"x in y\"");
        let (versions, others) = other_extensions(vec![moved.clone(), newer, column.clone()]);
        assert_eq!(others, [moved, column]);
        let told: Vec<String> = versions.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["extension \"uuid-ossp\" is 1.1, and was 1.0"]);
    }
}
