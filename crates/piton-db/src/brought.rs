//! What belongs to extensions: it comes back with them and not with a dump, and what people have added to it comes back with neither.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::DbError;
use crate::error::Doing;
use crate::fingerprint::{Change, Structure};
use crate::tables::{self, Table};
use crate::target::pin;
use crate::versions::OtherVersion;

/// The extensions' members and what stands on their tables, by the extension's quoted name.
pub type Brought = BTreeMap<String, Structure>;

const LISTING: &str = include_str!("catalogue/brought.sql");

/// What the keys of their rows begin with.
const ROWS: &str = "rows of ";

/// Lists what belongs to the extensions, with the sums of their tables' rows where these are wanted.
///
/// The session's settings are pinned for good.
pub(crate) async fn read(client: &Client, with_rows: bool) -> Result<Brought, DbError> {
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
    if with_rows {
        for (extension, table) in filled(client).await? {
            let sum = tables::sum(client, &table, &table.columns).await?;
            let sum = format!("{} rows with the sum {}", sum.rows, sum.sum);
            let rows = format!("{ROWS}{}", table.quoted());
            brought.entry(extension).or_default().0.insert(rows, sum);
        }
    }
    Ok(brought)
}

/// Lists the extensions' tables of which a dump has no row, and which the user may read.
///
/// An unlogged one is for what may be lost: a queue, a cache.
async fn filled(client: &Client) -> Result<Vec<(String, Table)>, DbError> {
    let rows = client
        .query(
            "select pg_catalog.quote_ident(e.extname), n.nspname::text, c.relname::text, c.oid,
                    array(select a.attname::text from pg_catalog.pg_attribute a
                          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                          order by a.attnum)
             from pg_catalog.pg_depend d
             join pg_catalog.pg_extension e on e.oid = d.refobjid
             join pg_catalog.pg_class c on c.oid = d.objid
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where d.classid = 'pg_catalog.pg_class'::regclass and d.deptype = 'e'
               and d.refclassid = 'pg_catalog.pg_extension'::regclass
               and c.relkind = 'r' and c.relpersistence = 'p'
               and not exists (select from pg_catalog.pg_extension x where c.oid = any (x.extconfig))
               and pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select')
               and not pg_catalog.row_security_active(c.oid)
             order by 1, 2, 3",
            &[],
        )
        .await
        .doing(|| "list the extensions' tables".into())?;
    let table = |row: &tokio_postgres::Row| Table {
        schema: row.get(1),
        name: row.get(2),
        oid: row.get(3),
        columns: row.get(4),
        filter: None,
    };
    Ok(rows.iter().map(|row| (row.get(0), table(row))).collect())
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
                // Their table is told to be missing, or cannot be read there.
                Change::Removed { object, .. } if object.starts_with(ROWS) => {}
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
