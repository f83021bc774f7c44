use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::install::mend_owner;
use crate::DbError;
use crate::capture::Missing;
use crate::error::Doing as _;

/// Lists what the server lacks for noting a database's writes by triggers, and for putting them into a copy, as the session's user.
///
/// Not for a session within a transaction: it tries what only trying tells in some of its own.
///
/// # Errors
/// When the server cannot be asked.
pub async fn missing(client: &Client) -> Result<Vec<Missing>, DbError> {
    let mut missing = Vec::new();
    if !may_watch(client).await? {
        missing.push(Missing {
            what: "the user may not make event triggers, without which the writes to a table that a migration makes anew would be lost"
                .into(),
            mend: "connect as a superuser, or as a managed server's administrator".into(),
        });
    }
    let rows = client.query(FACTS, &[]).await.doing(|| "see whether writes can be noted".into())?;
    let mut not_owned = Vec::new();
    for row in rows {
        let (what, of): (&str, String) = (row.get(0), row.get(1));
        missing.push(match what {
            "encoding" => Missing {
                what: format!("the database's encoding is {of}, not UTF8"),
                mend: "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, filled from a dump".into(),
            },
            "prepared" => Missing {
                what: format!("the transaction {of} is prepared and keeps its locks"),
                mend: format!("COMMIT PREPARED {of}, or ROLLBACK PREPARED {of}"),
            },
            "publication" => Missing {
                what: format!("the publication {of} of all tables would send what triggers note, and keep it from being removed"),
                mend: format!("CREATE PUBLICATION … FOR TABLES IN SCHEMA … in place of {of}, or give the user REPLICATION and have wal_level = logical"),
            },
            _ => {
                not_owned.push(of);
                continue;
            }
        });
    }
    missing.extend(owners(&not_owned));
    missing.extend(super::super::means::replaying(client).await?);
    Ok(missing)
}

/// Says of all tables that are another's what that takes.
fn owners(tables: &[String]) -> Option<Missing> {
    let what =
        |tables: &str, them: &str| format!("the user does not own {tables} and can put no trigger on {them}");
    Some(match tables {
        [] => return None,
        [table] => Missing { what: what(table, "it"), mend: mend_owner(table) },
        [first, others @ ..] => Missing {
            what: what(&format!("{first} and {} more", others.len()), "them"),
            mend: mend_owner("EACH"),
        },
    })
}

const FACTS: &str = "
    select 'encoding', pg_catalog.current_setting('server_encoding')
    where pg_catalog.current_setting('server_encoding') <> 'UTF8'
    union all
    select 'prepared', pg_catalog.quote_literal(gid) from pg_catalog.pg_prepared_xacts
    where database = pg_catalog.current_database()
    union all
    (select 'publication', pg_catalog.quote_ident(pubname) from pg_catalog.pg_publication where puballtables order by 2)
    union all
    (select 'owner', pg_catalog.format('%I.%I', n.nspname, c.relname)
     from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence = 'p' and not pg_catalog.pg_has_role(c.relowner, 'USAGE')
       and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' and n.nspname !~ '^piton_'
       and not exists (select from pg_catalog.pg_depend d
                       where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
     order by 2)";

/// Tries it: which users besides superusers may, each managed server decides for itself.
async fn may_watch(client: &Client) -> Result<bool, DbError> {
    const TRY: &str = "
        begin;
        create function pg_temp.piton_tries() returns event_trigger language plpgsql as 'begin end';
        create event trigger piton_capture_try on ddl_command_end when tag in ('ALTER OPERATOR') execute function pg_temp.piton_tries();
        rollback";
    match client.batch_execute(TRY).await {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            client.batch_execute("rollback").await.doing(|| "end a try".into())?;
            Ok(false)
        }
        Err(error) => Err(error).doing(|| "try to make an event trigger".into()),
    }
}
