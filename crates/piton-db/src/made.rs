//! Databases that Piton makes and, by their mark, may drop.
//!
//! `CREATE DATABASE` cannot share a transaction with the mark. So a database is made under a hidden name with connections
//! refused, and then marked, renamed and opened in one transaction: whatever dies in between, a database under its final name
//! carries its mark, and an unmarked leftover is one that nobody can ever have used.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Doing;
use crate::identity::{self, Label, MarkState, Purpose};
use crate::properties::{DEFAULT_TABLESPACE, Properties};
use crate::{Database, DbError, capture, facts, lock, quote};

/// What the hidden names begin with.
const HIDDEN: &str = "piton_new_";

/// How long a killed predecessor's session is waited for.
const PREDECESSOR: Duration = Duration::from_secs(30);

/// From how many bytes on a database is copied by its files.
const LARGE: i64 = 64 << 20;

/// Whether a database had to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was.
    New,
    /// It was there, whole, with this label.
    Existing,
}

/// Creates an empty database with the encoding, the locale and the tablespace of `like`.
///
/// # Errors
/// [`DbError::NameTaken`] when a database of that name carries another label or none; [`DbError::Privilege`].
pub async fn create(database: &Database, like: &Properties, label: &Label) -> Result<Made, DbError> {
    let major = identity::identity(&*database.maintenance().await?).await?.major();
    let options = format!("TEMPLATE template0{}", like.create_options(major));
    match make(database, &options, false, label).await {
        Err(DbError::Privilege { doing, mend, source }) if like.tablespace != DEFAULT_TABLESPACE => {
            let tablespace = quote::ident(&like.tablespace);
            let user = quote::ident(&database.user);
            let mend = format!("{mend}; GRANT CREATE ON TABLESPACE {tablespace} TO {user}");
            Err(DbError::Privilege { doing, mend, source })
        }
        other => other,
    }
}

/// Creates an empty database for what stands under another name: like that one, with its settings, where it is there.
///
/// # Errors
/// As [`create`].
pub async fn empty_for(database: &Database, live: &str, label: &Label) -> Result<Made, DbError> {
    let client = database.maintenance().await?;
    let there = facts::exists_on(&client, live).await?;
    let like = Properties::read(&client, if there { live } else { "template0" }).await?;
    // Where it stands is no matter to a copy, and its user need not be allowed there.
    let like = Properties { tablespace: DEFAULT_TABLESPACE.to_owned(), ..like };
    let made = create(database, &like, label).await?;
    if there {
        like.apply_settings(&client, &database.dbname).await?;
    }
    Ok(made)
}

/// Creates a database as a copy of another one on the same server, with its settings.
///
/// # Errors
/// As [`create`]; [`DbError::InUse`] when a session is on the template, which therefore can never be a live database.
pub async fn clone_from(database: &Database, template: &str, label: &Label) -> Result<Made, DbError> {
    let client = database.maintenance().await?;
    let source = identity::find(&client, template).await?;
    let source =
        source.ok_or_else(|| DbError::NoDatabase { name: template.to_owned(), server: database.server() })?;
    // The default strategy logs every page: five times slower for a large copy that can be made again.
    let by_files = is_large(&client, template).await?;
    let strategy = if by_files && source.major() >= 15 { " STRATEGY FILE_COPY" } else { "" };
    let options = format!("TEMPLATE {}{strategy}", quote::ident(template));
    let made = make(database, &options, by_files && source.major() >= 18, label).await;
    match made {
        Ok(made) => {
            // A template does not carry them, and a search_path decides which table a statement means.
            Properties::read(&client, template).await?.apply_settings(&client, &database.dbname).await?;
            Ok(made)
        }
        Err(DbError::Sql { source, .. }) if source.code() == Some(&SqlState::OBJECT_IN_USE) => {
            let sessions = sessions(&client, template).await?;
            Err(DbError::InUse { name: template.to_owned(), sessions })
        }
        Err(DbError::Privilege { doing, source, .. }) => {
            let mend = format!(
                "GRANT {} TO {user}; ALTER ROLE {user} CREATEDB",
                quote::ident(&Properties::read(&client, template).await?.owner),
                user = quote::ident(&database.user)
            );
            Err(DbError::Privilege { doing, mend, source })
        }
        Err(other) => Err(other),
    }
}

/// Tells whether copying a database's files is worth the two checkpoints that it forces, which the whole server feels.
async fn is_large(client: &Client, name: &str) -> Result<bool, DbError> {
    let row = client.query_one("select pg_catalog.pg_database_size($1::text)", &[&name]).await;
    let row = row.doing(|| format!("measure {name}"))?;
    Ok(row.get::<_, i64>(0) >= LARGE)
}

/// Makes a database; with `reflink` its files share their blocks with the template's where the file system can do that.
async fn make(database: &Database, options: &str, reflink: bool, label: &Label) -> Result<Made, DbError> {
    let name = &database.dbname;
    check_name(name)?;
    let mut client = database.maintenance().await?;
    wait_for_predecessor(&client, name).await?;
    if facts::exists_on(&client, name).await? {
        let mark = identity::read_mark(&client, name).await?;
        return match mark.valid() {
            Some(mark) if mark.label == *label => Ok(Made::Existing),
            _ => Err(DbError::NameTaken { name: name.clone(), found: mark.in_words() }),
        };
    }
    let hidden = hidden_name(name);
    drop_hidden(&client, &hidden).await?;
    let create = format!("CREATE DATABASE {} {options} ALLOW_CONNECTIONS false", quote::ident(&hidden));
    if !(reflink && cloned(&client, &create).await) {
        let created = client.batch_execute(&create).await;
        created.needing(
            || format!("create the database {name}"),
            || format!("ALTER ROLE {} CREATEDB", quote::ident(&database.user)),
        )?;
    }
    let what = || format!("put the new database {name} in place");
    let transaction = client.transaction().await.doing(what)?;
    identity::write_mark(transaction.client(), &hidden, label).await?;
    let (hidden, name) = (quote::ident(&hidden), quote::ident(name));
    transaction
        .batch_execute(&format!(
            "ALTER DATABASE {hidden} RENAME TO {name}; ALTER DATABASE {name} ALLOW_CONNECTIONS true"
        ))
        .await
        .doing(what)?;
    transaction.commit().await.doing(what)?;
    Ok(Made::New)
}

/// Runs the statement with files cloned instead of copied; false, and nothing made, where it did not succeed.
///
/// PostgreSQL 18 offers it, when it was built for that; whether the file system can, only the attempt tells.
async fn cloned(client: &Client, create: &str) -> bool {
    let cloned = match client.batch_execute("set file_copy_method = 'clone'").await {
        Ok(()) => client.batch_execute(create).await.is_ok(),
        Err(_) => false,
    };
    if let Err(error) = client.batch_execute("reset file_copy_method").await {
        tracing::debug!(%error, "the session keeps its way to copy files");
    }
    cloned
}

/// Waits until no other session makes or drops the database, and keeps others from it for the session's life.
///
/// A `CREATE DATABASE` whose client was killed goes on until the server finds out, and nobody sees what it makes before its end.
async fn wait_for_predecessor(client: &Client, name: &str) -> Result<(), DbError> {
    let mut key = [0; 8];
    blake3::Hasher::new().update(hidden_name(name).as_bytes()).finalize_xof().fill(&mut key);
    let taken = lock::take(client, i64::from_be_bytes(key), PREDECESSOR).await?;
    taken.map_err(|by| DbError::InUse { name: name.to_owned(), sessions: vec![by] })
}

/// Drops a database that Piton made, with the sessions on it; returns false when it is gone already.
///
/// # Errors
/// [`DbError::NotMade`] unless the database's own, valid mark says that Piton made it for the label's environment.
pub async fn drop_made(database: &Database, label: &Label) -> Result<bool, DbError> {
    let client = database.maintenance().await?;
    let name = &database.dbname;
    wait_for_predecessor(&client, name).await?;
    drop_hidden(&client, &hidden_name(name)).await?;
    if !facts::exists_on(&client, name).await? {
        return Ok(false);
    }
    let mark = identity::read_mark(&client, name).await?;
    if !mark.valid().is_some_and(|mark| mark.label.purpose.made_by_piton() && mark.label.is_beside(label)) {
        return Err(DbError::NotMade { name: name.clone(), found: mark.in_words() });
    }
    // One keeps its database from being dropped, and a copy's is the original's by its slot alone.
    if has_subscriptions(&client, name).await? {
        crate::neutral::drop_subscriptions(&*database.connect().await?).await?;
    }
    drop_now(&client, name).await?;
    Ok(true)
}

async fn has_subscriptions(client: &Client, name: &str) -> Result<bool, DbError> {
    let row = client
        .query_one(
            "select exists (select from pg_catalog.pg_subscription s join pg_catalog.pg_database d on d.oid = s.subdbid
                            where d.datname = $1)",
            &[&name],
        )
        .await
        .doing(|| format!("look for subscriptions of {name}"))?;
    Ok(row.get(0))
}

/// Drops a database that a swap has put aside, with the sessions on it; returns false when it is gone already.
///
/// Only for whoever has compared it with the one in its place and found nothing in it that would be lost.
///
/// # Errors
/// [`DbError::NotMade`] unless the database's own, valid mark says that it was replaced in the label's environment.
pub async fn drop_replaced(database: &Database, label: &Label) -> Result<bool, DbError> {
    let client = database.maintenance().await?;
    let name = &database.dbname;
    if !facts::exists_on(&client, name).await? {
        return Ok(false);
    }
    let mark = identity::read_mark(&client, name).await?;
    let fits = |found: &Label| found.purpose == Purpose::Replaced && found.is_beside(label);
    if !mark.valid().is_some_and(|mark| fits(&mark.label)) {
        return Err(DbError::NotMade { name: name.clone(), found: mark.in_words() });
    }
    drop_now(&client, name).await?;
    Ok(true)
}

/// What became of a database that is dropped when nothing is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It was empty, and is dropped.
    Dropped,
    /// There is none.
    Gone,
    /// It stays, because somebody has put this into it or is on it.
    Kept(Vec<String>),
}

/// Drops a database that people made and an environment adopted, if it is empty to the last; otherwise it stays open as it was.
///
/// Nobody comes in between the look and the end: new sessions are refused, and one that is on it keeps it.
///
/// # Errors
/// [`DbError::NotMade`] unless the database's own, valid mark says that it was adopted.
pub async fn drop_adopted(database: &Database) -> Result<Adopted, DbError> {
    let client = database.maintenance().await?;
    let name = &database.dbname;
    if !facts::exists_on(&client, name).await? {
        return Ok(Adopted::Gone);
    }
    let mark = identity::read_mark(&client, name).await?;
    if !mark.valid().is_some_and(|mark| mark.label.purpose == Purpose::Adopted) {
        return Err(DbError::NotMade { name: name.clone(), found: mark.in_words() });
    }
    // A predecessor that was killed in between left it closed.
    allow_connections(&client, name, true).await?;
    let inside = database.connect().await?;
    allow_connections(&client, name, false).await?;
    let found = in_use(&client, &inside, name).await;
    drop(inside);
    let found = match found {
        Ok(found) if found.is_empty() => {
            // Without force: a session that came in unseen keeps it, too.
            let statement = format!("DROP DATABASE {}", quote::ident(name));
            match client.batch_execute(&statement).await {
                Ok(()) => return Ok(Adopted::Dropped),
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => sessions(&client, name).await,
                Err(error) => Err(error).doing(|| format!("drop {name}")),
            }
        }
        found => found,
    };
    allow_connections(&client, name, true).await?;
    found.map(Adopted::Kept)
}

/// Lists what is in a database, who else is on it, and what is prepared in it.
async fn in_use(client: &Client, inside: &Client, name: &str) -> Result<Vec<String>, DbError> {
    let what = || format!("look who uses {name}");
    let row = inside.query_one("select pg_catalog.pg_backend_pid()", &[]).await.doing(what)?;
    let rows = client
        .query(
            "select 'session ' || pid || ' of ' || usename from pg_catalog.pg_stat_activity
             where datname = $1 and pid <> $2 and usesysid is not null
             union all
             select 'prepared transaction ' || gid from pg_catalog.pg_prepared_xacts where database = $1",
            &[&name, &row.get::<_, i32>(0)],
        )
        .await
        .doing(what)?;
    // What an ended session has left is seen after it was seen to have ended.
    let mut found = facts::contents(inside).await?;
    found.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    Ok(found)
}

async fn allow_connections(client: &Client, name: &str, allow: bool) -> Result<(), DbError> {
    let statement = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", quote::ident(name));
    client.batch_execute(&statement).await.needing(
        || format!("close {name} to look into it"),
        || format!("ALTER DATABASE {} OWNER TO the user", quote::ident(name)),
    )
}

/// Drops what an interrupted [`make`] left under the hidden name.
///
/// It is recognised by three things that only such a leftover has together: the name made from a hash, connections refused
/// since its creation, and no mark.
async fn drop_hidden(client: &Client, hidden: &str) -> Result<(), DbError> {
    let row = client
        .query_opt("select datallowconn from pg_catalog.pg_database where datname = $1", &[&hidden])
        .await
        .doing(|| format!("look for {hidden}"))?;
    match row.map(|row| row.get::<_, bool>(0)) {
        None => Ok(()),
        Some(false) if identity::read_mark(client, hidden).await? == MarkState::Unmarked => {
            drop_now(client, hidden).await
        }
        Some(_) => Err(DbError::NameTaken {
            name: hidden.to_owned(),
            found: "it was opened or marked by somebody else".into(),
        }),
    }
}

/// Drops a database with the sessions on it, those that read its log for us as well: while their slots are there it cannot be dropped.
async fn drop_now(client: &Client, name: &str) -> Result<(), DbError> {
    capture::end_readings(client, name).await?;
    let statement = format!("DROP DATABASE {}", quote::ident(name));
    let mut dropped = client.batch_execute(&format!("{statement} WITH (FORCE)")).await;
    if dropped.as_ref().is_err_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)) {
        // Whoever is no superuser may not force autovacuum away; without force the server asks it to leave.
        dropped = client.batch_execute(&statement).await;
    }
    dropped.needing(
        || format!("drop {name}"),
        || format!("ALTER DATABASE {} OWNER TO the user", quote::ident(name)),
    )
}

fn hidden_name(name: &str) -> String {
    format!("{HIDDEN}{}", &blake3::hash(name.as_bytes()).to_hex()[..24])
}

/// Refuses names that PostgreSQL would silently cut off.
pub(crate) fn check_name(name: &str) -> Result<(), DbError> {
    if name.len() > 63 { Err(DbError::NameTooLong { name: name.to_owned() }) } else { Ok(()) }
}

/// Describes the sessions on a database, autovacuum aside.
pub(crate) async fn sessions(client: &Client, database: &str) -> Result<Vec<String>, DbError> {
    let rows = client
        .query(
            "select pg_catalog.concat_ws(' ', 'session', pid, 'of', usename, '(' || nullif(application_name, '') || ')',
                    'from ' || client_addr, 'since ' || date_trunc('second', backend_start))
             from pg_catalog.pg_stat_activity
             where datname = $1 and pid <> pg_catalog.pg_backend_pid() and usesysid is not null
             order by pid",
            &[&database],
        )
        .await
        .doing(|| format!("list the sessions on {database}"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
