use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{SCHEMA, TRIGGER};
use crate::error::Doing as _;
use crate::target::{PINNED, pin};
use crate::{Database, DbError, Session, lock, quote};

const INSTALL: &str = include_str!("install.sql");

/// How long a table's writers may wait behind us, each time that we ask for its lock.
const LOCK_WAIT: Duration = Duration::from_millis(300);

/// The advisory lock of whoever installs or removes: "piton" and "tr".
const LOCK: i64 = 0x0070_6974_6f6e_7472;

/// How long that one may take.
const ALONE_WITHIN: Duration = Duration::from_secs(20);

/// How long one table's lock is asked for, again and again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Has every write to a database noted from now on; done again, it completes what is there.
///
/// When it returns, a snapshot sees each transaction of which a write was not noted. It waits for the transactions that have written
/// to a table: for each of them 0.3 s at a time, within which nobody else can write to that table. `budget` is how much of the whole
/// server's log may be written, in bytes, before somebody has read; behind that nothing more is noted.
///
/// # Errors
/// [`DbError::Privilege`] when the user may not make event triggers or owns not all tables; [`DbError::Replication`] when a prepared
/// transaction would block it, when a schema of that name is somebody's, or when a table stays locked for two minutes.
pub async fn install(database: &Database, budget: u64) -> Result<(), DbError> {
    let client = alone(database, doing).await?;
    let prepared: i64 = client
        .query_one(
            "select count(*) from pg_catalog.pg_prepared_xacts where database = pg_catalog.current_database()",
            &[],
        )
        .await
        .doing(doing)?
        .get(0);
    if prepared > 0 {
        return Err(refused("a prepared transaction is open, which holds its locks until somebody ends it"));
    }
    if !is_whole(&client).await? {
        // A removal may have been cut off: what was written meanwhile is not in it.
        take_away(&client).await?;
        make(&client, budget).await?;
    }
    loop {
        let rows = client
            .query("select c.oid, c.oid::regclass::text from piton_capture.unattached() u(oid) join pg_catalog.pg_class c on c.oid = u.oid", &[])
            .await
            .doing(doing)?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let (oid, name): (u32, String) = (row.get(0), row.get(1));
            patiently(&client, &format!("select piton_capture.attach({oid})"), &name).await?;
        }
    }
    // What is visible here was written before its table's trigger was there, or is in the window of nobody who needs it.
    let begin = "insert into piton_capture.\"window\" select 1, pg_catalog.pg_current_snapshot() on conflict do nothing";
    client.batch_execute(begin).await.doing(doing)
}

async fn make(client: &Client, budget: u64) -> Result<(), DbError> {
    let settings = PINNED.iter().chain(&[("search_path", "")]);
    let settings: Vec<String> =
        settings.map(|(name, value)| format!("set {name} = {}", quote::literal(value))).collect();
    let budget = i64::try_from(budget).unwrap_or(i64::MAX);
    let sql = format!(
        "begin; {}; insert into piton_capture.state
         select pg_catalog.pg_current_wal_insert_lsn() + {budget}::numeric, {budget}; commit",
        INSTALL.replace("SETTINGS", &settings.join(" ")),
    );
    if let Err(error) = client.batch_execute(&sql).await {
        // The session is used no more.
        return match error.code() {
            Some(&SqlState::DUPLICATE_SCHEMA) => {
                Err(refused(&format!("there is a schema {SCHEMA} that Piton did not make")))
            }
            _ => Err(error).needing(doing, || {
                "CREATE is needed on the database, and the right to make event triggers".into()
            }),
        };
    }
    Ok(())
}

/// Removes everything that [`install`] has made, as far as it is there; nothing of people's is touched.
///
/// # Errors
/// As [`install`].
pub async fn remove(database: &Database) -> Result<(), DbError> {
    take_away(&*alone(database, doing_away).await?).await
}

async fn take_away(client: &Client) -> Result<(), DbError> {
    if !is_installed(client).await? {
        return Ok(());
    }
    client
        .batch_execute(
            "drop event trigger if exists piton_capture_moves; drop event trigger if exists piton_capture_drops",
        )
        .await
        .doing(doing_away)?;
    let rows = client
        .query(
            "select t.tgname::text, t.tgrelid::regclass::text
             from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
             where p.pronamespace = $1::text::regnamespace and not t.tgisinternal",
            &[&SCHEMA],
        )
        .await
        .doing(doing_away)?;
    for row in rows {
        let (trigger, table): (String, String) = (row.get(0), row.get(1));
        let drop = format!("drop trigger if exists {} on {table}", quote::ident(&trigger));
        patiently(client, &drop, &table).await?;
    }
    client.batch_execute("drop schema if exists piton_capture cascade").await.doing(doing_away)
}

/// Runs a statement that needs a table's lock, without keeping anybody waiting for long.
async fn patiently(client: &Client, sql: &str, table: &str) -> Result<(), DbError> {
    let begun = Instant::now();
    let sql = format!("begin; set local lock_timeout = {}; {sql}; commit", LOCK_WAIT.as_millis());
    let mut pause = Duration::from_millis(100);
    loop {
        let Err(error) = client.batch_execute(&sql).await else { return Ok(()) };
        client.batch_execute("rollback").await.doing(doing)?;
        match error.code() {
            // It went meanwhile.
            Some(&SqlState::UNDEFINED_TABLE) => return Ok(()),
            Some(&(SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED)) => {
                if begun.elapsed() > PATIENCE {
                    return Err(refused(&format!("{table} stays locked by others")));
                }
            }
            _ => {
                return Err(error)
                    .needing(|| format!("have the writes to {table} noted"), || mend_owner(table));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

pub(super) fn mend_owner(table: &str) -> String {
    format!("ALTER TABLE {table} OWNER TO the user, or make the user a member of its owner")
}

/// Tells whether the schema is there and ours.
pub(super) async fn is_installed(client: &Client) -> Result<bool, DbError> {
    let row = client
        .query_one(
            // No comment on it: the structure's listing would have that.
            "select exists (select from pg_catalog.pg_attribute
             where attrelid = pg_catalog.to_regclass('piton_capture.change') and attname = 'new_at')",
            &[],
        )
        .await
        .doing(doing)?;
    Ok(row.get(0))
}

async fn is_whole(client: &Client) -> Result<bool, DbError> {
    let row = client
        .query_one(
            "select count(*) = 2 from pg_catalog.pg_event_trigger where evtname in ('piton_capture_moves', 'piton_capture_drops')",
            &[],
        )
        .await
        .doing(doing)?;
    Ok(row.get(0))
}

/// Tells of a line of a dump's table of contents whether it is of what [`install`] has made.
pub fn is_entry(line: &str) -> bool {
    // `3403; 2620 16400 TRIGGER public t !piton_capture_row postgres`: what it is, in capitals, the schema, and the name.
    let Some((_, entry)) = line.split_once("; ") else { return false };
    let words: Vec<&str> = entry.split(' ').skip(2).collect();
    let any = |beginning: &str| words.iter().any(|word| word.starts_with(beginning));
    let what = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_uppercase());
    match words[..] {
        ["TRIGGER", ..] => any(TRIGGER),
        ["EVENT", "TRIGGER", ..] => any("piton_capture_"),
        _ => match words.iter().skip_while(what).collect::<Vec<_>>()[..] {
            [&"-", &"SCHEMA", name, ..] | [&"-", name, ..] => *name == SCHEMA,
            [schema, ..] => *schema == SCHEMA,
            [] => false,
        },
    }
}

/// Opens a session when that of a predecessor, which may have died in the middle of a statement, is gone.
async fn alone(database: &Database, doing: fn() -> String) -> Result<Session, DbError> {
    let client = session(database).await?;
    match lock::take(&client, LOCK, ALONE_WITHIN).await? {
        Ok(()) => Ok(client),
        Err(by) => {
            Err(DbError::Replication { doing: doing(), said: format!("{by} does so, too"), code: None })
        }
    }
}

pub(super) async fn session(database: &Database) -> Result<Session, DbError> {
    let client = database.connect().await?;
    pin(&client).await?;
    client.batch_execute("set client_min_messages = warning").await.doing(|| "prepare a session".into())?;
    Ok(client)
}

fn doing() -> String {
    "have the database's writes noted by triggers".to_owned()
}

fn doing_away() -> String {
    "remove the triggers that note the database's writes".to_owned()
}

fn refused(why: &str) -> DbError {
    DbError::Replication { doing: doing(), said: why.to_owned(), code: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_in_a_dump_is_known_by_its_line() {
        for (line, yes) in [
            ("5; 2615 16384 SCHEMA - piton_capture postgres", true),
            ("3403; 0 0 COMMENT - SCHEMA piton_capture postgres", true),
            ("3404; 0 0 ACL - SCHEMA piton_capture postgres", true),
            ("221; 1259 16400 TABLE piton_capture change postgres", true),
            ("3400; 0 16400 TABLE DATA piton_capture change postgres", true),
            ("3250; 1259 16410 INDEX piton_capture change_xid_idx postgres", true),
            ("230; 1255 16420 FUNCTION piton_capture lay(oid, pg_lsn) postgres", true),
            ("3260; 2620 16430 TRIGGER public t !piton_capture_row postgres", true),
            ("3261; 2620 16430 TRIGGER public a b !piton_capture_empty postgres", true),
            ("3100; 3466 16440 EVENT TRIGGER - piton_capture_moves postgres", true),
            ("3261; 2620 16430 TRIGGER public t touch postgres", false),
            ("221; 1259 16400 TABLE public piton_capture postgres", false),
            ("3100; 3466 16440 EVENT TRIGGER - watch postgres", false),
            ("6; 2615 2200 SCHEMA - public pg_database_owner", false),
            ("; Selected TOC Entries:", false),
        ] {
            assert_eq!(is_entry(line), yes, "{line}");
        }
    }
}
