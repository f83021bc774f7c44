//! What belongs to extensions: it comes back with them and not with a dump, and what people have added to it comes back with neither.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::Doing;
use crate::fingerprint::{Change, Structure};
use crate::target::pin;
use crate::versions::OtherVersion;
use crate::{DbError, quote};

/// The extensions' members and what stands on their tables, by the extension's quoted name.
pub type Brought = BTreeMap<String, Structure>;

const LISTING: &str = include_str!("catalogue/brought.sql");

/// Lists what belongs to the extensions.
///
/// The rows of their own tables are not looked at: which of them a dump holds their authors have said, and what they keep there
/// besides, a scheduler's state, they keep for themselves. The session's settings are pinned for good.
pub(crate) async fn read(client: &Client) -> Result<Brought, DbError> {
    pin(client).await?;
    let messages = client.simple_query(LISTING).await.doing(|| "list what belongs to extensions".into())?;
    let mut brought = Brought::new();
    for message in &messages {
        let SimpleQueryMessage::Row(row) = message else { continue };
        if let (Some(extension), Some(object)) = (row.get(0), row.get(1)) {
            let definition = row.get(2).unwrap_or_default().to_owned();
            brought.entry(extension.to_owned()).or_default().0.insert(object.to_owned(), definition);
        }
    }
    Ok(brought)
}

/// Lists the extensions' own tables that hold rows of which a dump has none; an unlogged one is for what may be lost.
///
/// # Errors
/// When the database cannot be asked.
pub async fn filled(client: &Client) -> Result<Vec<String>, DbError> {
    let what = || "list the extensions' tables".to_owned();
    let rows = client
        .query(
            "select n.nspname::text, c.relname::text, pg_catalog.has_schema_privilege(n.oid, 'usage')
                    and pg_catalog.has_table_privilege(c.oid, 'select') and not pg_catalog.row_security_active(c.oid)
             from pg_catalog.pg_depend d
             join pg_catalog.pg_class c on c.oid = d.objid
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where d.classid = 'pg_catalog.pg_class'::regclass and d.deptype = 'e'
               and d.refclassid = 'pg_catalog.pg_extension'::regclass
               and c.relkind = 'r' and c.relpersistence = 'p'
               and not exists (select from pg_catalog.pg_extension x where c.oid = any (x.extconfig))
             order by 1, 2",
            &[],
        )
        .await
        .doing(what)?;
    let mut filled = Vec::new();
    for row in &rows {
        let table = quote::qualified(row.get(0), row.get(1));
        let any = format!("select exists (select from only {table})");
        // What may not be looked at may hold some.
        if !row.get::<_, bool>(2) || client.query_one(&any, &[]).await.doing(what)?.get(0) {
            filled.push(table);
        }
    }
    Ok(filled)
}

/// Lists what a copy lacks of what belongs to its original's extensions; what it has besides is no loss.
///
/// An extension that the copy has not is missing itself, and one of another version may have brought anything.
pub(crate) fn lost(was: &Brought, is: &Brought, copy: &Structure, versions: &[OtherVersion]) -> Vec<Change> {
    let mut lost = Vec::new();
    for (extension, members) in was {
        let whole = format!("extension {extension}");
        if !copy.0.contains_key(&whole) || versions.iter().any(|other| other.what == whole) {
            continue;
        }
        let none = Structure::default();
        for change in members.changes_to(is.get(extension).unwrap_or(&none)) {
            let object = format!("{whole}: {}", change.object());
            match change {
                Change::Added { .. } => {}
                Change::Removed { definition, .. } => lost.push(Change::Removed { object, definition }),
                Change::Changed { from, to, .. } => lost.push(Change::Changed { object, from, to }),
            }
        }
    }
    lost
}

/// Takes apart what [`lost`] has named: the extension, and what belongs to it.
pub(crate) fn member(object: &str) -> Option<(&str, &str)> {
    object.strip_prefix("extension ")?.split_once(": ")
}

/// Writes `table public.kept` as a statement would.
pub(crate) fn in_sql(member: &str) -> String {
    match member.split_once(' ') {
        Some((kind, name)) => format!("{} {name}", kind.to_uppercase()),
        None => member.to_owned(),
    }
}
