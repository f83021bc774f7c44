//! Compares a table's structure with what a check expects.

use tokio_postgres::Client;

use crate::config::{ForeignKey, ReferentialAction, TableCheck, TableName};

/// Returns the first difference in words, or `None` when the table is as expected.
pub(crate) async fn compare(
    client: &Client,
    spec: &TableCheck,
) -> Result<Option<String>, tokio_postgres::Error> {
    Ok(differences(client, spec).await?.into_iter().next())
}

async fn differences(client: &Client, spec: &TableCheck) -> Result<Vec<String>, tokio_postgres::Error> {
    let Some(oid) = find(client, &spec.table).await? else {
        return Ok(vec![format!("there is no table {}", spec.table)]);
    };
    let mut wrong = columns(client, oid, spec).await?;
    let keys = keys(client, oid).await?;
    if !spec.primary_key.is_empty()
        && !keys.iter().any(|key| key.kind == 'p' && key.columns == spec.primary_key)
    {
        wrong.push(format!("the primary key is not ({})", spec.primary_key.join(", ")));
    }
    for columns in &spec.unique {
        let mut wanted = columns.clone();
        wanted.sort();
        let is_wanted = |key: &Key| {
            let mut columns = key.columns.clone();
            columns.sort();
            matches!(key.kind, 'p' | 'u') && columns == wanted
        };
        if !keys.iter().any(is_wanted) {
            wrong.push(format!("({}) is not unique", columns.join(", ")));
        }
    }
    for expected in &spec.foreign_keys {
        wrong.extend(foreign_key(client, oid, expected).await?);
    }
    Ok(wrong)
}

async fn find(client: &Client, table: &TableName) -> Result<Option<u32>, tokio_postgres::Error> {
    let row = client
        .query_opt(
            "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relname = $1 AND c.relkind IN ('r', 'p')
               AND CASE WHEN $2::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2 END",
            &[&table.name, &table.schema],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

async fn columns(client: &Client, oid: u32, spec: &TableCheck) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute
             WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
            &[&oid],
        )
        .await?;
    let mut wrong = Vec::new();
    for column in &spec.columns {
        let Some(row) = rows.iter().find(|row| row.get::<_, String>(0) == column.name) else {
            wrong.push(format!("column {} is missing", column.name));
            continue;
        };
        let (found, nullable): (String, bool) = (row.get(1), row.get(2));
        if found != column.data_type && !same_type(client, &found, &column.data_type).await? {
            wrong.push(format!("column {} is {found}, expected {}", column.name, column.data_type));
        }
        if nullable != column.nullable {
            let words = |nullable| if nullable { "takes NULL" } else { "is NOT NULL" };
            wrong.push(format!("column {} {}, expected the opposite", column.name, words(nullable)));
        }
    }
    Ok(wrong)
}

/// Asks the server whether two spellings name one type: `int4` and `integer`.
async fn same_type(client: &Client, a: &str, b: &str) -> Result<bool, tokio_postgres::Error> {
    // to_regtype ignores modifiers, so `varchar(10)` and `varchar(20)` must differ by their text.
    if a.contains('(') || b.contains('(') {
        return Ok(false);
    }
    let row = client.query_one("SELECT to_regtype($1) = to_regtype($2)", &[&a, &b]).await?;
    Ok(row.get::<_, Option<bool>>(0).unwrap_or(false))
}

struct Key {
    kind: char,
    columns: Vec<String>,
}

async fn keys(client: &Client, oid: u32) -> Result<Vec<Key>, tokio_postgres::Error> {
    // Unique indexes without a constraint keep rows unique too, but only whole ones on plain columns.
    let rows = client
        .query(
            "SELECT i.indisprimary, array_agg(a.attname::text ORDER BY k.place)
             FROM pg_index i
             CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
             GROUP BY i.indexrelid, i.indisprimary",
            &[&oid],
        )
        .await?;
    Ok(rows.iter().map(|row| Key { kind: if row.get(0) { 'p' } else { 'u' }, columns: row.get(1) }).collect())
}

async fn foreign_key(
    client: &Client,
    oid: u32,
    expected: &ForeignKey,
) -> Result<Option<String>, tokio_postgres::Error> {
    let label = format!(
        "foreign key ({}) → {} ({})",
        expected.columns.join(", "),
        expected.table,
        expected.referenced.join(", ")
    );
    let Some(target) = find(client, &expected.table).await? else {
        return Ok(Some(format!("{label}: there is no table {}", expected.table)));
    };
    let rows = client
        .query(
            "SELECT con.confupdtype::text, con.confdeltype::text, con.convalidated,
                    (SELECT array_agg(a.attname::text ORDER BY k.place)
                     FROM unnest(con.conkey) WITH ORDINALITY AS k(attnum, place)
                     JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum),
                    (SELECT array_agg(a.attname::text ORDER BY k.place)
                     FROM unnest(con.confkey) WITH ORDINALITY AS k(attnum, place)
                     JOIN pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.attnum)
             FROM pg_constraint con WHERE con.conrelid = $1 AND con.confrelid = $2 AND con.contype = 'f'",
            &[&oid, &target],
        )
        .await?;
    let found = rows.iter().find(|row| {
        row.get::<_, Vec<String>>(3) == expected.columns
            && row.get::<_, Vec<String>>(4) == expected.referenced
    });
    let Some(row) = found else {
        return Ok(Some(format!("{label} is missing")));
    };
    let (update, delete): (String, String) = (row.get(0), row.get(1));
    if update != code(expected.on_update) || delete != code(expected.on_delete) {
        return Ok(Some(format!("{label} has another ON UPDATE or ON DELETE than expected")));
    }
    Ok((!row.get::<_, bool>(2)).then(|| format!("{label} is not validated")))
}

fn code(action: ReferentialAction) -> &'static str {
    match action {
        ReferentialAction::NoAction => "a",
        ReferentialAction::Restrict => "r",
        ReferentialAction::Cascade => "c",
        ReferentialAction::SetNull => "n",
        ReferentialAction::SetDefault => "d",
    }
}
