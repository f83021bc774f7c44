//! Whose database an environment reaches.

use piton_db::identity::{Label, MarkState, Purpose, Sameness};
use piton_db::{Database, DbError, facts, identity, quote};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Act, Ctx, Seen, Site, Words, World};
use crate::config::Settings;
use crate::fault::{Fault, OrFault};
use crate::plan::Job;
use crate::words;

/// Leaves the environment's mark in a database that has none yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The app.
    pub app: String,
}

/// The environment's database is its own, whichever URL names it.
pub(super) async fn identity_guard(world: &World, job: Job) -> Result<(), Fault> {
    let settings = &world.settings;
    let replaces = settings.data.is_some() && job.takes_data();
    let environment = &settings.environment;
    broken_guard(world)?;
    let Some(database) = database(settings)? else { return Ok(()) };
    if replaces && ["postgres", "template0", "template1"].contains(&database.dbname.as_str()) {
        return Err(Fault::refused(format!(
            "{environment}'s database is the server's own {}",
            database.dbname
        ))
        .because("a release with `data` replaces the database, and this one belongs to the server")
        .hint(format!("point DATABASE_URL of {environment} at a database of its own")));
    }
    let client = match database.connect().await {
        Ok(client) => client,
        // A database that is made from another one's data need not exist yet; one that a backup is restored beside is
        // perhaps what was lost.
        Err(error)
            if (replaces || matches!(job, Job::Proof | Job::Restore))
                && !facts::exists(&database).await.unwrap_or(true) =>
        {
            tracing::debug!(%error, "not needed");
            return Ok(());
        }
        Err(error) => return Err(unreachable_database(settings, &database, &error)),
    };
    let unreadable = || format!("{database} cannot be told apart from others");
    let mark = identity::read_mark(&client, &database.dbname).await.or_fault(unreadable)?;
    match &mark {
        MarkState::Marked(mark) => own_mark(settings, &database, mark, replaces)?,
        MarkState::Copied(mark) if mark.label.environment != settings.environment => {
            return Err(is_others(settings, &database, &mark.label.environment)
                .because("it carries that environment's mark, copied with a dump or moved with a server"));
        }
        MarkState::Copied(_) | MarkState::Unmarked => {}
    }
    let mut uncompared = elsewhere(world);
    for other in world.others() {
        let Some(theirs) = self::database(other)? else { continue };
        match identity::same_database(&database, &theirs).await {
            // One that is not there yet.
            Err(DbError::NoDatabase { .. }) => {}
            // Out of reach from here: the mark speaks for it, when there is one.
            Err(DbError::Connect { .. }) => {
                if other.protected {
                    let why =
                        format!("{}'s database {theirs} cannot be reached from here", other.environment);
                    uncompared.get_or_insert((why, format!("let {theirs} be reached from this machine")));
                }
            }
            Err(error) => {
                let fault = Fault::refused(format!(
                    "{environment}'s database cannot be told apart from {}'s",
                    other.environment
                ))
                .because(format!("{database} and {theirs}"))
                .caused_by(&error);
                return Err(match error {
                    DbError::Pooler { .. } => fault.hint(super::BESIDE_THE_POOLER),
                    _ => fault,
                });
            }
            Ok(Sameness::Same) => {
                return Err(is_others(settings, &database, &other.environment)
                    .because(format!("both reach the same database on the same server as {theirs}")));
            }
            Ok(Sameness::PhysicalCopy | Sameness::Different) => {}
        }
    }
    let measured = facts::read(&client).await.or_fault(unreadable)?;
    if !measured.writable {
        return Err(Fault::refused(format!("{environment}'s database takes no writes"))
            .because(format!("{database} is a standby or read-only"))
            .hint("point DATABASE_URL at the primary"));
    }
    if replaces {
        return is_replaceable(settings, &database).await;
    }
    let Some((why, way_on)) = uncompared.filter(|_| !settings.protected && mark.valid().is_none()) else {
        return Ok(());
    };
    let found = facts::contents(&client).await.or_fault(unreadable)?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Fault::refused(format!("nobody can tell whose {environment}'s database is"))
        .because(format!("{database} holds {} and no mark", words::some(&found, 3)))
        .because(why)
        .hint(way_on))
}

/// Refuses to compare with what is wrong: a mistake in another environment's variables must not switch a guard off.
fn broken_guard(world: &World) -> Result<(), Fault> {
    for other in &world.others {
        let Seen::Broken(messages) = &other.seen else { continue };
        let theirs = &other.environment;
        let mut fault = Fault::refused(format!(
            "{} cannot be compared with {theirs}: its variables are not usable",
            world.settings.environment
        ));
        fault.why.clone_from(messages);
        return Err(fault.hint(format!(
            "mend {}; piton config {theirs} points at the mistake",
            other.env_file.display()
        )));
    }
    Ok(())
}

/// Says which protected environment cannot be compared with because its variables are not here, and what mends that.
fn elsewhere(world: &World) -> Option<(String, String)> {
    let mut hidden = world.others.iter().filter(|other| matches!(other.seen, Seen::Elsewhere));
    let other = hidden.find(|other| other.protected)?;
    let (theirs, file) = (&other.environment, other.env_file.display());
    Some((
        format!("{theirs}'s variables are not on this machine: it may be {theirs}'s"),
        format!("put {file} beside piton.toml with {theirs}'s DATABASE_URL, so that the two can be compared"),
    ))
}

/// Refuses to replace a database that Piton did not make, unless nothing is in it.
pub(super) async fn is_replaceable(settings: &Settings, database: &Database) -> Result<(), Fault> {
    let unreadable = || format!("{database} cannot be looked into");
    let client = database.connect().await.or_fault(unreadable)?;
    let mark = identity::read_mark(&client, &database.dbname).await.or_fault(unreadable)?;
    if mark.valid().is_some_and(|mark| mark.label.purpose == Purpose::Clone) {
        return Ok(());
    }
    let found = facts::contents(&client).await.or_fault(unreadable)?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Fault::refused(format!("{}'s database was not made by Piton", settings.environment))
        .because(format!("{database} holds {}; a release would replace it", words::some(&found, 3)))
        .hint(format!("if it may be replaced: {}; Piton makes it anew", database.by_hand("dropdb"))))
}

fn own_mark(
    settings: &Settings,
    database: &Database,
    mark: &identity::Mark,
    replaces: bool,
) -> Result<(), Fault> {
    let label = &mark.label;
    if label.environment != settings.environment || label.app != settings.app {
        let whose = if label.app == settings.app {
            label.environment.clone()
        } else {
            format!("{} of the app {}", label.environment, label.app)
        };
        let release = label.release.as_deref().map_or_else(String::new, |id| format!(" by release {id}"));
        return Err(is_others(settings, database, &whose)
            .because(format!("it carries the mark of {whose} (set {}{release})", words::day(mark.set_at))));
    }
    if label.purpose == Purpose::Live && replaces {
        return Err(Fault::refused(format!("{database} was released to without `data`"))
            .because("its rows are its own; a release with `data` would replace them")
            .hint(format!("if they may go: {}; Piton makes it anew", database.by_hand("dropdb"))));
    }
    if !label.purpose.is_environments_own() {
        return Err(Fault::refused(format!("{database} is a copy that a release made to work with"))
            .because(format!("its mark says: {:?}", label.purpose))
            .hint("point DATABASE_URL at the environment's own database"));
    }
    Ok(())
}

fn is_others(settings: &Settings, database: &Database, whose: &str) -> Fault {
    let environment = &settings.environment;
    Fault::refused(format!("{environment}'s database is {whose}'s"))
        .because(format!("{environment} reaches {database}"))
        .hint(format!(
            "point DATABASE_URL of {environment} at a database of its own, such as {}_{environment}",
            database.dbname
        ))
}

fn unreachable_database(settings: &Settings, database: &Database, error: &piton_db::DbError) -> Fault {
    if let DbError::Pooler { .. } = error {
        return Fault::refused(format!("{}'s database is reached through a pooler", settings.environment))
            .caused_by(error)
            .because("a pooler lends one session to many, and a release needs sessions of its own: for locks, snapshots and settings")
            .hint(super::BESIDE_THE_POOLER);
    }
    let hint = match error {
        DbError::NoDatabase { .. } => {
            format!("if the URL names the right one: {} makes it", database.by_hand("createdb"))
        }
        DbError::Connect { source, .. } if source.code().is_some_and(|code| code.code() == "53300") => {
            "its sessions are used up: SELECT usename, application_name, state FROM pg_stat_activity says by whom; \
             max_connections in postgresql.conf allows more"
                .into()
        }
        // 28: who or whence one may log in.
        DbError::Connect { source, .. } if source.code().is_some_and(|code| code.code().starts_with("28")) => {
            format!("the server runs: the user or the password in DATABASE_URL of {} is wrong", settings.environment)
        }
        _ => format!("pg_isready -h {} -p {} tells whether the server runs", database.host, database.port),
    };
    Fault::refused(format!("{}'s database cannot be reached", settings.environment))
        .because(format!("{database}"))
        .caused_by(error)
        .hint(hint)
}

pub(super) fn database(settings: &Settings) -> Result<Option<Database>, Fault> {
    settings.database.as_ref().map(|_| super::database_of(settings)).transpose()
}

impl Mark {
    fn label(&self, ctx: &Ctx<'_, '_>) -> Label {
        Label {
            app: self.app.clone(),
            environment: ctx.plan.environment.clone(),
            release: Some(ctx.plan.id.clone()),
            // One whose place a clone takes: the guard has seen that it is empty, and who made it may still put something in.
            purpose: if ctx.settings().data.is_some() { Purpose::Adopted } else { Purpose::Live },
        }
    }
}

impl Act for Mark {
    fn words(&self, site: &Site<'_>) -> Words {
        let does = format!("mark the database as {}'s (it has no mark yet)", site.settings.environment);
        let Ok(database) = super::database_of(site.settings) else {
            return Words::new(does, "remove the mark");
        };
        let comment =
            format!("COMMENT ON DATABASE {} IS '… piton: {{mark}}'", quote::ident(&database.dbname));
        Words::new(does, "remove the mark").with(site.psql(None, ["-c", &comment]))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
        let client = database.connect().await.or_fault(|| format!("{database} cannot be reached"))?;
        identity::write_mark(&client, &database.dbname, &self.label(ctx))
            .await
            .or_fault(|| "the database cannot be marked".into())?;
        Ok(Value::Null)
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
        let client = database.connect().await.or_fault(|| format!("{database} cannot be reached"))?;
        let state = identity::read_mark(&client, &database.dbname)
            .await
            .or_fault(|| "the mark cannot be read".into())?;
        // Only this release's own mark is taken away.
        if state.valid().is_some_and(|mark| mark.label == self.label(ctx)) {
            identity::clear_mark(&client, &database.dbname)
                .await
                .or_fault(|| "the mark cannot be removed".into())?;
        }
        Ok(Value::Null)
    }
}
