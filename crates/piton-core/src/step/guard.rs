use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use piton_db::identity::{Label, MarkState, Purpose, Sameness};
use piton_db::migrate::MigrationError;
use piton_db::migrate::sql::SqlFolder;
use piton_db::{Database, DbError, facts, identity, quote};
use piton_exec::{Command, local};
use piton_proxy::Slot;
use piton_proxy::control::{Client, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::which::{self, Guarded};
use super::{Act, Ctx, Seen, Site, Words, World};
use crate::config::{self, Settings};
use crate::fault::{Fault, Kind, OrFault};
use crate::plan::port_of;
use crate::{ports, words};

/// Refuses a release before anything is touched; changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// The commit, for the order of environments.
    pub commit: String,
    /// The slot that has to be free.
    pub slot: Slot,
}

/// What one guard found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The guard's name.
    pub guard: String,
    /// Why it refuses; `None` when it lets pass.
    pub refusal: Option<Fault>,
}

/// Leaves the environment's mark in a database that has none yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The app.
    pub app: String,
}

const GUARDS: [&str; 9] =
    ["identity", "secrets", "tools", "migrations", "disk", "ports", "order", "window", "serving"];

impl Act for Guard {
    fn words(&self, _site: &Site<'_>) -> Words {
        Words::new(format!("{} guards: {}", GUARDS.len(), GUARDS.join(", ")), "nothing to undo")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let findings = self.look(ctx.world, Timestamp::now()).await;
        let mut refusals: Vec<Fault> =
            findings.iter().filter_map(|finding| finding.refusal.clone()).collect();
        match refusals.len() {
            0 => {
                let databases =
                    which::look(ctx.world).await.map_err(|fault| Fault { kind: Kind::Refused, ..fault })?;
                Ok(json!(Guarded { guards: GUARDS.len(), databases }))
            }
            1 => Err(refusals.remove(0)),
            count => {
                let mut all = Fault::refused(format!("{count} guards refuse this release"));
                for refusal in refusals {
                    all.why.push(refusal.what);
                    all.why.extend(refusal.why.into_iter().map(|why| format!("  {why}")));
                    all.why.extend(refusal.hint.into_iter().map(|hint| format!("  → {hint}")));
                }
                Err(all)
            }
        }
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Ok(Value::Null)
    }
}

impl Guard {
    /// Runs every guard.
    pub async fn look(&self, world: &World, now: Timestamp) -> Vec<Finding> {
        let results = [
            identity_guard(world).await,
            secrets_guard(world),
            tools_guard(world).await,
            self.migrations_guard(world).await,
            disk_guard(world).await,
            self.ports_guard(world).await,
            self.order_guard(world),
            window_guard(&world.settings, now),
            serving_guard(world).await,
        ];
        let named = GUARDS.iter().zip(results);
        // Whatever keeps a guard from looking refuses, too: nothing was touched yet.
        let refusal =
            |result: Result<(), Fault>| result.err().map(|fault| Fault { kind: Kind::Refused, ..fault });
        named
            .map(|(guard, result)| Finding { guard: (*guard).to_owned(), refusal: refusal(result) })
            .collect()
    }

    async fn ports_guard(&self, world: &World) -> Result<(), Fault> {
        let settings = &world.settings;
        shared_port(world)?;
        let port = port_of(settings, self.slot);
        let mut wanted =
            vec![(format!("{}'s port", self.slot), SocketAddr::from((Ipv4Addr::LOCALHOST, port)))];
        match proxy_status(&world.dirs.proxy(&settings.environment)).await {
            Some(proxy) if proxy.listen != settings.listen => return Err(other_address(settings, &proxy)),
            Some(_) => {}
            None => wanted.push(("the proxy's port".into(), settings.listen)),
        }
        for (whose, address) in wanted {
            let Err(error) = TcpListener::bind(address) else { continue };
            let port = address.port();
            let fault = Fault::refused(format!("{whose} {port} cannot be used"));
            return Err(match ports::owner(port) {
                Some(owner) => fault
                    .because(format!("process {} ({}) listens on it", owner.pid, owner.command))
                    .hint(format!("kill {}, or choose another port in piton.toml", owner.pid)),
                None => fault.caused_by(&error).hint("choose another port in piton.toml"),
            });
        }
        Ok(())
    }

    /// The commit has its migrations, and its database none that is half applied in a way that no run can carry on.
    async fn migrations_guard(&self, world: &World) -> Result<(), Fault> {
        let settings = &world.settings;
        has_migrations(&self.commit, settings).await?;
        let source = world.from.as_ref().unwrap_or(settings);
        let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
        let (Some(migrations), Some(database)) = (migrations, database(source)?) else { return Ok(()) };
        // The identity guard reports a database that is away.
        let recorded = SqlFolder::recorded(&database).await.unwrap_or_default();
        for half in recorded.iter().filter(|recorded| !recorded.finished) {
            let text = file_of(&self.commit, &settings.root, &migrations.folder.join(&half.name)).await?;
            match SqlFolder::may_carry_on(&database, &half.name, text.as_deref()).await {
                Err(error @ DbError::Migration(MigrationError::HalfApplied { .. })) => {
                    let (environment, owner) = (&settings.environment, &source.environment);
                    return Err(Fault::refused(format!("{owner}'s database holds a half-applied migration"))
                        .caused_by(&error)
                        .hint(format!(
                            "piton migration {owner} {} --applied (or --not-applied), then piton deploy {environment}",
                            half.name
                        )));
                }
                // A file that cannot be taken apart is the rehearsal's to tell.
                Ok(()) | Err(DbError::Migration(_)) => {}
                Err(error) => {
                    return Err(Fault::refused("the record of migrations cannot be read").caused_by(&error));
                }
            }
        }
        Ok(())
    }

    fn order_guard(&self, world: &World) -> Result<(), Fault> {
        let Some(after) = &world.settings.after else { return Ok(()) };
        if world.released_before.contains(&self.commit) {
            return Ok(());
        }
        let short = self.commit.get(..7).unwrap_or(&self.commit);
        Err(Fault::refused(format!("{short} has not been released to {after}"))
            .because(format!(
                "{} takes only what {after} has run: after = \"{after}\"",
                world.settings.environment
            ))
            .hint(format!("piton deploy {after} --ref {short}")))
    }
}

async fn proxy_status(dir: &Path) -> Option<Status> {
    Client::connect(dir).await.ok()?.status().await.ok()
}

/// Two environments that can both be released from here need ports of their own.
fn shared_port(world: &World) -> Result<(), Fault> {
    let ports =
        |settings: &Settings| [settings.listen.port(), settings.run.ports.blue, settings.run.ports.green];
    let own = ports(&world.settings);
    for other in world.others() {
        if let Some(port) = ports(other).into_iter().find(|port| own.contains(port)) {
            return Err(Fault::refused(format!(
                "{} and {} both use port {port}",
                world.settings.environment, other.environment
            ))
            .hint("give each environment its own listen and ports in piton.toml"));
        }
    }
    Ok(())
}

fn other_address(settings: &Settings, proxy: &Status) -> Fault {
    let environment = &settings.environment;
    if let Err(error) = TcpListener::bind(settings.listen) {
        return Fault::refused(format!("{environment}'s proxy cannot move to {}", settings.listen))
            .caused_by(&error)
            .hint(format!(
                "piton.toml said {} before; put that back, or choose a free address",
                proxy.listen
            ));
    }
    Fault::refused(format!(
        "{environment}'s proxy listens on {}, piton.toml says {}",
        proxy.listen, settings.listen
    ))
    .because("moving to another address cuts off whoever uses the old one, so it is not done in passing")
    .hint(format!("kill {} && piton resume {environment} starts it on the new address", proxy.pid))
}

/// The environment's database is its own, whichever URL names it.
async fn identity_guard(world: &World) -> Result<(), Fault> {
    let settings = &world.settings;
    let environment = &settings.environment;
    broken_guard(world)?;
    let Some(database) = database(settings)? else { return Ok(()) };
    if settings.data.is_some() && ["postgres", "template0", "template1"].contains(&database.dbname.as_str()) {
        return Err(Fault::refused(format!(
            "{environment}'s database is the server's own {}",
            database.dbname
        ))
        .because("a release with `data` replaces the database, and this one belongs to the server")
        .hint(format!("point DATABASE_URL of {environment} at a database of its own")));
    }
    let client = match database.connect().await {
        Ok(client) => client,
        // A database that is made from another one's data need not exist yet.
        Err(error) if settings.data.is_some() && !facts::exists(&database).await.unwrap_or(true) => {
            tracing::debug!(%error, "made later");
            return Ok(());
        }
        Err(error) => return Err(unreachable_database(settings, &database, &error)),
    };
    let unreadable = || format!("{database} cannot be told apart from others");
    let mark = identity::read_mark(&client, &database.dbname).await.or_fault(unreadable)?;
    match &mark {
        MarkState::Marked(mark) => own_mark(settings, &database, mark)?,
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
    if settings.data.is_some() {
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
        .hint(format!(
            "if it may be replaced: dropdb -h {} -p {} {}; Piton makes it anew",
            database.host, database.port, database.dbname
        )))
}

fn own_mark(settings: &Settings, database: &Database, mark: &identity::Mark) -> Result<(), Fault> {
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
    if label.purpose == Purpose::Live && settings.data.is_some() {
        return Err(Fault::refused(format!("{database} was released to without `data`"))
            .because("its rows are its own; a release with `data` would replace them")
            .hint(format!(
                "if they may go: dropdb -h {} -p {} {}; Piton makes it anew",
                database.host, database.port, database.dbname
            )));
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
    Fault::refused(format!("{}'s database cannot be reached", settings.environment))
        .because(format!("{database}"))
        .caused_by(error)
        .hint(format!("pg_isready -h {} -p {} tells whether the server runs", database.host, database.port))
}

fn database(settings: &Settings) -> Result<Option<Database>, Fault> {
    settings.database.as_ref().map(|_| super::database_of(settings)).transpose()
}

fn secrets_guard(world: &World) -> Result<(), Fault> {
    let settings = &world.settings;
    let environment = &settings.environment;
    for other in world.others() {
        let equal = config::equal_secrets(settings, other);
        if !equal.is_empty() {
            let told = |(own, theirs): &(&str, &str)| match own == theirs {
                true => (*own).to_owned(),
                false => format!("{own} ({theirs} in {})", other.environment),
            };
            let names = equal.iter().map(told).collect::<Vec<_>>().join(", ");
            let own: Vec<&str> = equal.iter().map(|(own, _)| *own).collect();
            return Err(Fault::refused(format!(
                "{environment} and {} share the secret {names}",
                other.environment
            ))
            .because("whoever learns it in one environment has it in the other")
            .hint(format!(
                "give {environment} its own value, or name it in [secrets] shared = [\"{}\"]",
                own.join("\", \"")
            )));
        }
    }
    let (wrong, kind, whose) = if settings.protected {
        (config::test_keys_inside_protected(settings), "test", "a protected environment")
    } else {
        (config::live_keys_outside_protected(settings), "live", "an environment that is not protected")
    };
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Fault::refused(format!("{environment} holds a {kind} key in {}", wrong.join(", ")))
        .because(format!("a {kind} key in {whose} moves the wrong people's money"))
        .hint(format!("put the right key into the env_file of {environment}")))
}

/// The release's commit has the migrations that piton.toml names.
async fn has_migrations(commit: &str, settings: &Settings) -> Result<(), Fault> {
    let Some(migrations) = settings.database.as_ref().and_then(|database| database.migrations.as_ref())
    else {
        return Ok(());
    };
    let folder = migrations.folder.display().to_string();
    let root = settings.root.display().to_string();
    let command =
        Command::new("git").args(["-C", &root, "ls-tree", "-d", "--name-only", commit, "--", &folder]);
    let listed = local::run(&command).await.or_fault(|| "git could not list the commit".into())?;
    if !listed.stdout.trim().is_empty() {
        return Ok(());
    }
    let short = commit.get(..7).unwrap_or(commit);
    Err(Fault::refused(format!("{short} has no folder {folder}"))
        .because("database.folder in piton.toml names it as the folder of migrations")
        .hint("name the right folder, or commit it"))
}

/// Reads a file of a commit as a checkout has it; `None` when the commit has none of this path.
pub(crate) async fn file_of(commit: &str, root: &Path, path: &Path) -> Result<Option<String>, Fault> {
    let (root, path) = (root.display().to_string(), path.display().to_string());
    let git = || Command::new("git").args(["-C", &root]);
    let unreadable = || format!("git could not read {path} of the commit");
    let listed = local::run(&git().args(["ls-tree", "--name-only", commit, "--", &path])).await;
    if listed.or_fault(unreadable)?.stdout.trim().is_empty() {
        return Ok(None);
    }
    let read = local::read(&git().args(["cat-file", "--filters", &format!("{commit}:./{path}")])).await;
    Ok(Some(String::from_utf8_lossy(&read.or_fault(unreadable)?).into_owned()))
}

async fn tools_guard(world: &World) -> Result<(), Fault> {
    if !ports::on_path("git") {
        return Err(Fault::refused("git was not found on this machine").hint("apt-get install git"));
    }
    let settings = &world.settings;
    for (key, line) in settings
        .build
        .run
        .iter()
        .map(|line| ("build.run", line))
        .chain([("run.command", &settings.run.command)])
    {
        if !line.program.contains('/') && !ports::on_path(&line.program) {
            return Err(Fault::refused(format!("{} was not found on this machine", line.program))
                .because(format!("{key} needs it: {line}"))
                .hint(format!(
                    "install {} so that it is found through PATH, or change {key}",
                    line.program
                )));
        }
    }
    for settings in std::iter::once(&world.settings).chain(&world.from) {
        let Some(database) = database(settings)? else { continue };
        // A database that is still to be made has the server's version all the same; the identity guard reports the rest.
        let Ok(client) = database.maintenance().await else { continue };
        let found =
            identity::identity(&client).await.or_fault(|| "the server's version cannot be read".into())?;
        piton_db::tools::Tools::find(found.major()).await.map_err(|error| {
            Fault::refused("PostgreSQL's tools for a proved backup are missing").caused_by(&error)
        })?;
    }
    may_create(settings).await
}

/// The user makes databases: the golden copy, the rehearsal's copy.
async fn may_create(settings: &Settings) -> Result<(), Fault> {
    let Some(database) = database(settings)? else { return Ok(()) };
    // The identity guard reports a server that is away.
    let Ok(client) = database.maintenance().await else { return Ok(()) };
    let row = client
        .query_one(
            "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .or_fault(|| "the user's privileges cannot be read".into())?;
    if !row.get::<_, bool>(0) {
        return Err(Fault::refused(format!("{} may not create databases", database.user))
            .because(format!("a backup is proved in a database of its own on {}", database.server()))
            .hint(format!("as a superuser: ALTER ROLE \"{}\" CREATEDB", database.user)));
    }
    // A copy that may take the database's place stands in its tablespace; one of another's data does not.
    let row = client
        .query_opt(
            "SELECT spcname::text FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = dattablespace
             WHERE datname = $1 AND $2 AND spcname <> 'pg_default'
               AND NOT pg_catalog.has_tablespace_privilege(t.oid, 'CREATE')",
            &[&database.dbname, &settings.data.is_none()],
        )
        .await
        .or_fault(|| "the user's privileges cannot be read".into())?;
    let Some(row) = row else { return Ok(()) };
    let tablespace: String = row.get(0);
    Err(Fault::refused(format!("{} may not create in the tablespace {tablespace}", database.user))
        .because(format!("{database} is in it, and its backup is proved beside it"))
        .hint(format!(
            "as a superuser: GRANT CREATE ON TABLESPACE {} TO {}",
            quote::ident(&tablespace),
            quote::ident(&database.user)
        )))
}

async fn disk_guard(world: &World) -> Result<(), Fault> {
    let settings = &world.settings;
    let Some(source) = database(world.from.as_ref().unwrap_or(settings))? else { return Ok(()) };
    let Ok(client) = source.connect().await else { return Ok(()) };
    let size = facts::read(&client).await.or_fault(|| "the database cannot be measured".into())?.size;
    let mut needs = vec![Need { path: settings.backup.to.clone(), bytes: size, what: "the backup" }];
    // The copies stand on the environment's own server; its disk can only be looked at when it is this machine's.
    if let Some(own) = database(settings)?
        && let Ok(client) = own.maintenance().await
        && let Ok(measured) = facts::read(&client).await
        && let Some(path) = measured.data_directory.filter(|path| path.is_dir())
    {
        needs.push(Need { path, bytes: 2 * size, what: "the golden copy and the rehearsal's copy" });
    }
    room(&needs)
}

struct Need {
    path: PathBuf,
    bytes: u64,
    what: &'static str,
}

/// Wants room for all needs and a tenth more, disk by disk.
fn room(needs: &[Need]) -> Result<(), Fault> {
    use std::os::unix::fs::MetadataExt;
    let mut disks: BTreeMap<u64, (&Path, u64, Vec<&str>)> = BTreeMap::new();
    for need in needs {
        let there = need.path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let Ok(meta) = fs_err::metadata(there) else { continue };
        let disk = disks.entry(meta.dev()).or_insert((there, 0, Vec::new()));
        disk.1 += need.bytes + need.bytes / 10;
        disk.2.push(need.what);
    }
    for (there, bytes, what) in disks.into_values() {
        let Ok(disk) = rustix::fs::statvfs(there) else { continue };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < bytes {
            return Err(Fault::refused(format!("too little disk for {}", what.join(" and ")))
                .because(format!(
                    "{} has {} free, {} are needed",
                    there.display(),
                    words::bytes(free),
                    words::bytes(bytes)
                ))
                .hint(format!("du -xh --max-depth 2 {} | sort -h shows what takes room", there.display())));
        }
    }
    Ok(())
}

fn window_guard(settings: &Settings, now: Timestamp) -> Result<(), Fault> {
    match &settings.window {
        Some(window) if !window.contains(now) => {
            let opens = window.next_open(now).map_or_else(|| "never".into(), words::time);
            Err(Fault::refused(format!("{} takes releases {window}", settings.environment))
                .because(format!("it opens next {opens}"))
                .hint(format!("piton plan {} shows until then what would run", settings.environment)))
        }
        _ => Ok(()),
    }
}

/// The release that serves must answer: it is the way back.
async fn serving_guard(world: &World) -> Result<(), Fault> {
    let Some(port) = world.serving.as_ref().map(|start| start.port) else { return Ok(()) };
    let settings = &world.settings;
    let path = &settings.run.ready.get;
    let (does, why) = match crate::http::get(port, path, std::time::Duration::from_secs(5)).await {
        Ok(answer) if answer.status < 500 => return Ok(()),
        Ok(answer) => ("is not well", format!("it answers {}", answer.status)),
        Err(error) => ("does not answer", error.to_string()),
    };
    Err(Fault::refused(format!("the release that serves {} {does}", settings.environment))
        .because(format!("GET {path} on port {port}: {why}; there would be nothing to go back to"))
        .hint(format!("piton resume {} starts it again when it has died", settings.environment)))
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
