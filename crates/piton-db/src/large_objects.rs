//! The large objects: an app's data that stands in no table.

use std::collections::BTreeMap;
use std::io::{self, Read};

use ring::digest;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::DbError;
use crate::error::Doing;
use crate::hex::hex;

/// How much of a large object is read at once, in bytes.
const PIECE: i32 = 16 << 20;

const WHAT: fn() -> String = || "read the large objects".to_owned();

/// What is compared of a large object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObject {
    /// The SHA-256 of each 16 MiB of its contents, in hexadecimal digits, one behind the other.
    pub sha256: String,
    /// The owning role.
    pub owner: String,
    /// Who may read and write it, in words; `None` when nobody but its owner.
    pub grants: Option<String>,
    /// Its comment.
    pub comment: Option<String>,
}

/// Lists the large objects by their numbers, their contents unread.
pub(crate) async fn list(client: &Client) -> Result<BTreeMap<u32, LargeObject>, DbError> {
    let rows = client
        .query(
            "select m.oid, pg_catalog.pg_get_userbyid(m.lomowner)::text,
                    (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', coalesce(r.rolname, 'public'), a.privilege_type,
                              case when a.is_grantable then '*' end), ', ' order by r.rolname, a.privilege_type)
                     from pg_catalog.aclexplode(m.lomacl) a left join pg_catalog.pg_roles r on r.oid = a.grantee
                     where not (a.grantee = m.lomowner and m.lomacl = pg_catalog.acldefault('L', m.lomowner))),
                    pg_catalog.obj_description(m.oid, 'pg_largeobject')
             from pg_catalog.pg_largeobject_metadata m",
            &[],
        )
        .await
        .doing(WHAT)?;
    let object = |row: &tokio_postgres::Row| LargeObject {
        sha256: String::new(),
        owner: row.get(1),
        grants: row.get(2),
        comment: row.get(3),
    };
    Ok(rows.iter().map(|row| (row.get(0), object(row))).collect())
}

/// Reads every large object as the session's snapshot has it, piece by piece; by its number.
pub(crate) async fn read(client: &Client) -> Result<BTreeMap<u32, LargeObject>, DbError> {
    let mut objects = list(client).await?;
    let mut unread: Vec<u32> = objects.keys().copied().collect();
    let mut offset = 0_i64;
    while !unread.is_empty() {
        let rows = client
            .query(
                "select oid, pg_catalog.encode(pg_catalog.sha256(piece), 'hex'), pg_catalog.octet_length(piece) = $3
                 from pg_catalog.pg_largeobject_metadata, pg_catalog.lo_get(oid, $2, $3) piece where oid = any($1)",
                &[&unread, &offset, &PIECE],
            )
            .await
            .needing(WHAT, || "GRANT SELECT ON LARGE OBJECT its number TO the user".into())?;
        unread.clear();
        for row in rows {
            let (oid, sum, goes_on) = (row.get::<_, u32>(0), row.get::<_, &str>(1), row.get::<_, bool>(2));
            if let Some(object) = objects.get_mut(&oid) {
                object.sha256.push_str(sum);
            }
            unread.extend(goes_on.then_some(oid));
        }
        offset += i64::from(PIECE);
    }
    Ok(objects)
}

/// Sums a large object's contents as [`LargeObject::sha256`] has them.
pub(crate) fn sum(mut contents: impl Read) -> io::Result<String> {
    let mut sums = String::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let mut piece = digest::Context::new(&digest::SHA256);
        let mut left = PIECE as usize;
        while left > 0 {
            let most = left.min(buffer.len());
            let read = match contents.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                break;
            }
            piece.update(&buffer[..read]);
            left -= read;
        }
        sums.push_str(&hex(piece.finish().as_ref()));
        if left > 0 {
            return Ok(sums);
        }
    }
}
