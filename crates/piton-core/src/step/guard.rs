use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use piton_db::manifest::Manifest;
use piton_db::mask::Rules;
use piton_db::migrate::MigrationError;
use piton_db::{Database, DbError, cron, facts, identity, quote};
use piton_exec::{Command, local};
use piton_proxy::Slot;
use piton_proxy::control::{Client, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::downs::downs_guard;
use super::identity::{database, identity_guard};
use super::which::{self, Guarded};
use super::{Act, Ctx, Site, Words, World};
use crate::config::{self, Data, LintLevel, Settings};
use crate::facts::Pending;
use crate::fault::{Fault, Kind, OrFault};
use crate::look::OfCommit;
use crate::plan::{Job, port_of};
use crate::{files, lint, ports, words};

/// Refuses a release before anything is touched; changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// The commit, for the order of environments.
    pub commit: String,
    /// The slot that has to be free.
    pub slot: Slot,
    /// What is guarded: what moves neither code nor traffic has fewer guards.
    #[serde(default)]
    pub job: Job,
    /// The backup that is restored, where none is taken.
    #[serde(default)]
    pub backup: Option<PathBuf>,
    /// Where that one's files are wanted.
    #[serde(default)]
    pub files: Option<PathBuf>,
    /// The database that is put in place, where no backup is.
    #[serde(default)]
    pub kept: Option<String>,
    /// Whether the store of backups is needed.
    #[serde(default)]
    pub store: bool,
}

/// What one guard found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The guard's name.
    pub guard: String,
    /// Why it refuses; `None` when it lets pass.
    pub refusal: Option<Fault>,
}

impl Guard {
    /// Names the guards in their order.
    fn names(&self) -> Vec<&'static str> {
        let mut names = match self.job {
            Job::Release => {
                vec![
                    "identity",
                    "secrets",
                    "tools",
                    "migrations",
                    "disk",
                    "ports",
                    "order",
                    "window",
                    "serving",
                ]
            }
            Job::Clone => vec!["identity", "secrets", "tools", "disk", "window", "serving"],
            Job::Backup | Job::Proof | Job::Restore => vec!["identity", "tools", "disk"],
            Job::Rollback => vec!["identity", "contents", "tools", "disk"],
        };
        if self.store {
            names.push("store");
        }
        names
    }
}

impl Act for Guard {
    fn words(&self, _site: &Site<'_>) -> Words {
        let names = self.names();
        Words::new(format!("{} guards: {}", names.len(), names.join(", ")), "nothing to undo")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let findings = self.look(ctx.world, Timestamp::now()).await;
        let mut refusals: Vec<Fault> =
            findings.iter().filter_map(|finding| finding.refusal.clone()).collect();
        match refusals.len() {
            0 => {
                let databases =
                    which::look(ctx.world).await.map_err(|fault| Fault { kind: Kind::Refused, ..fault })?;
                Ok(json!(Guarded { guards: self.names().len(), databases }))
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
        let mut findings = Vec::new();
        for guard in self.names() {
            // Whatever keeps a guard from looking refuses, too: nothing was touched yet.
            let refusal =
                self.one(guard, world, now).await.err().map(|fault| Fault { kind: Kind::Refused, ..fault });
            findings.push(Finding { guard: guard.to_owned(), refusal });
        }
        findings
    }

    async fn one(&self, guard: &str, world: &World, now: Timestamp) -> Result<(), Fault> {
        match guard {
            "identity" => identity_guard(world, self.job).await,
            "secrets" => {
                secrets_guard(world)?;
                mask_guard(world, self.job).await
            }
            "tools" => self.tools_guard(world).await,
            "migrations" => self.migrations_guard(world).await,
            "contents" => self.contents_guard(world).await,
            "disk" => disk_guard(world, self).await,
            "ports" => self.ports_guard(world).await,
            "order" => self.order_guard(world),
            "window" => window_guard(&world.settings, now),
            "store" => store_guard(&world.settings).await,
            _ => serving_guard(world).await,
        }
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
                Some(owner) => {
                    let fault =
                        fault.because(format!("process {} ({}) listens on it", owner.pid, owner.command));
                    // To end what serves somebody is an outage.
                    fault.hint(match owner.serves {
                        true => "release from the folder that it was released from, or choose another port in piton.toml".into(),
                        false => format!("kill {}, or choose another port in piton.toml", owner.pid),
                    })
                }
                None => fault.caused_by(&error).hint("choose another port in piton.toml"),
            });
        }
        Ok(())
    }

    /// The programs that the release runs are there, and so are the database's own of the right version.
    async fn tools_guard(&self, world: &World) -> Result<(), Fault> {
        if self.job != Job::Release {
            return database_tools(world).await;
        }
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
        migration_tool(settings)?;
        self.has_program(settings).await?;
        database_tools(world).await
    }

    /// The commit has the program that starts the app, where nothing is built that could make it.
    async fn has_program(&self, settings: &Settings) -> Result<(), Fault> {
        let program = &settings.run.command.program;
        let outside = program.starts_with('/') || program.starts_with("../");
        if !settings.build.run.is_empty() || !program.contains('/') || outside {
            return Ok(());
        }
        // What is behind a link or in a submodule is only there once it is checked out: then the build looks.
        let first = program.split('/').find(|part| !matches!(*part, "" | ".")).unwrap_or(program);
        if is_listed(&self.commit, &settings.root, &[], first).await? {
            return Ok(());
        }
        let short = self.commit.get(..7).unwrap_or(&self.commit);
        Err(Fault::refused(format!("{short} has no file {program}"))
            .because("run.command in piton.toml starts the app with it, and there is no build.run that could make it")
            .hint("name in run.command what starts the app, or in build.run what builds it"))
    }

    /// The commit has its migrations, and its database none that is half applied in a way that no run can carry on.
    async fn migrations_guard(&self, world: &World) -> Result<(), Fault> {
        let settings = &world.settings;
        has_migrations(&self.commit, settings).await?;
        self.cron_guard(world).await?;
        let fresh = matches!(settings.data, Some(Data::Fresh { .. }));
        let source = world.from.as_ref().unwrap_or(settings);
        let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
        let (Some(migrations), Some(database)) = (migrations, database(source)?) else { return Ok(()) };
        // The identity guard reports a database that is away.
        if database.connect().await.is_err() {
            return Ok(());
        }
        // What is made from nothing has no record.
        if !fresh {
            self.record_guard(settings, source, migrations, &database).await?;
            downs_guard(settings, source, &self.commit, &database).await?;
        }
        self.lint_guard(settings, source).await
    }

    /// The database that a release may go back to has nothing that no copy can have.
    async fn cron_guard(&self, world: &World) -> Result<(), Fault> {
        let goes_back =
            self.job == Job::Rollback || self.job == Job::Release && world.settings.data.is_none();
        let (true, Some(database)) = (goes_back, database(&world.settings)?) else { return Ok(()) };
        // The identity guard reports a database that is away.
        let Ok(client) = database.connect().await else { return Ok(()) };
        let has_cron = cron::is_there(&client).await.or_fault(|| format!("{database} cannot be read"))?;
        let environment = &world.settings.environment;
        let again = match self.job {
            Job::Rollback => "go back".into(),
            _ => format!("piton deploy {environment}"),
        };
        if has_cron { Err(super::backup::has_cron(environment, &again)) } else { Ok(()) }
    }

    /// What is put in the database's place is the environment's own, or a copy for it as it would be made today.
    async fn contents_guard(&self, world: &World) -> Result<(), Fault> {
        let settings = &world.settings;
        let environment = &settings.environment;
        self.cron_guard(world).await?;
        if let (Some(name), Some(database)) = (&self.kept, database(settings)?) {
            let place = identity::locate(&database.with_name(name)).await;
            let place = place.or_fault(|| format!("{} cannot be asked", database.server()))?;
            let purpose = place.purpose(&settings.app, environment);
            if purpose == Some(identity::Purpose::Replaced) {
                return Ok(());
            }
            return Err(Fault::refused(format!("{environment} has no backup {name}, and no such database that was replaced"))
                .because(match place.oid {
                    None => format!("there is no database {name} on {}", database.server()),
                    Some(_) => format!("{name}: {}", place.mark.in_words()),
                })
                .hint(format!(
                    "piton backups {environment} lists the backups, piton status {environment} the database that was kept last"
                )));
        }
        let Some(folder) = &self.backup else { return Ok(()) };
        let manifest = manifest_of(settings, folder).await?;
        let Some(from) = &manifest.made_for.from else { return Ok(()) };
        let data = settings.data.as_ref().and_then(Data::source);
        let data = data.filter(|data| data.environment == *from && !settings.protected);
        let Some(data) = data else {
            let masked = if manifest.mask.is_some() { "masked " } else { "" };
            return Err(Fault::refused(format!(
                "the backup holds {masked}rows of {from}, and not {environment}'s own"
            ))
            .because(format!("it was made when {environment} took its data from {from}"))
            .hint(format!("piton backups {environment} lists the others")));
        };
        if manifest.mask == data.mask.as_ref().map(|mask| mask.mask.hash()) {
            return Ok(());
        }
        Err(Fault::refused("what is masked was changed since the backup was made")
            .because("its rows are what the mask before let through")
            .hint(format!("piton clone {environment} makes its database anew with what is written now")))
    }

    /// The record of migrations has none that stands in the way.
    async fn record_guard(
        &self,
        settings: &Settings,
        source: &Settings,
        migrations: &config::Migrations,
        database: &Database,
    ) -> Result<(), Fault> {
        let look = OfCommit::look(&self.commit, &settings.root, migrations).await?;
        let (environment, owner) = (&settings.environment, &source.environment);
        let holds = |what: &str, error: &DbError| {
            Fault::refused(format!("{owner}'s database holds {what}")).caused_by(error)
        };
        let mend = |name: &str| {
            format!(
                "piton migration {owner} {name} --applied (or --not-applied), then piton deploy {environment}"
            )
        };
        let Err(error) = look.migrations.may_begin(database).await else { return Ok(()) };
        Err(match &error {
            DbError::Migration(MigrationError::HalfApplied { name, .. }) => {
                holds("a half-applied migration", &error).hint(mend(name))
            }
            DbError::Migration(MigrationError::Unclear { name, .. }) => {
                holds("a failed migration", &error).hint(mend(name))
            }
            DbError::Migration(MigrationError::Changed { .. }) => {
                holds("a migration that was edited since", &error)
                    .hint(format!("git revert the edit, then piton deploy {environment}"))
            }
            DbError::Migration(MigrationError::Renamed { name, from }) => {
                let file = |name: &str| migrations.folder.join(name).display().to_string();
                let back = Command::new("git").args(["mv", &file(name), &file(from)]);
                holds("a migration that was renamed since", &error).hint(format!(
                    "{back} and commit, then piton deploy {environment}; where it is another one, add a comment to it"
                ))
            }
            DbError::Migration(MigrationError::NotInFolder { name }) => holds(
                "a migration that this commit has not",
                &error,
            )
            .hint(format!(
                "git log --all -S {name} finds the commit that has it: piton deploy {environment} --ref THAT"
            )),
            DbError::Migration(MigrationError::Unreadable { .. }) => {
                Fault::refused("the commit's migrations cannot be read").caused_by(&error)
            }
            // What else is wrong with a file is the rehearsal's to tell.
            DbError::Migration(_) => return Ok(()),
            _ => Fault::refused("the record of migrations cannot be read").caused_by(&error),
        })
    }

    /// No pending migration has what `[lint]` says is an error.
    async fn lint_guard(&self, settings: &Settings, source: &Settings) -> Result<(), Fault> {
        // The plan has a remark on those who only want to be warned.
        if settings.lint.values().all(|level| *level != LintLevel::Error) {
            return Ok(());
        }
        let pending = crate::facts::pending(settings, source, &self.commit).await.map_err(|fault| {
            let refused = Fault::refused("[lint] in piton.toml cannot look at the pending migrations");
            let why = std::iter::once(fault.what).chain(fault.why).collect();
            Fault { why, ..refused }
                .hint(format!("mend what cannot be read, then piton deploy {}", settings.environment))
        })?;
        let found = pending.as_ref().map_or_else(Vec::new, |pending| lint::look(settings, pending));
        let none = pending.and_then(Pending::told).is_some_and(|names| names.is_empty());
        if let Some(blind) = lint::blind(settings).filter(|_| !none) {
            return Err(Fault::refused(
                "[lint] in piton.toml refuses by rules that see none of these migrations",
            )
            .because(blind)
            .hint("write \"warn\" for \"error\" in [lint], and look at the migrations yourself"));
        }
        let mut fault = Fault::refused("a pending migration has what [lint] in piton.toml refuses");
        fault.why = found.iter().filter(|found| found.refuses()).map(lint::Found::words).collect();
        if fault.why.is_empty() {
            return Ok(());
        }
        Err(fault.hint(
            "write it in the safer form and commit; or allow it: -- squawk-ignore RULE above the statement",
        ))
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

/// Where data are masked on the way, it is said of every column that looks like people's what becomes of it; and what is to be
/// left empty is there.
async fn mask_guard(world: &World, job: Job) -> Result<(), Fault> {
    let data = world.settings.data.as_ref().and_then(Data::source);
    let (Some(data), Some(source)) = (data, &world.from) else { return Ok(()) };
    let (empty, mask) = (&data.empty, data.mask.as_ref());
    let Some(database) = database(source)? else { return Ok(()) };
    // A database that is away keeps the backup from being made.
    let Ok(client) = database.connect().await else { return Ok(()) };
    let rules = Rules { empty, mask: mask.map(|mask| &mask.mask) };
    let problems = rules.problems(&client).await.or_fault(|| format!("{database} cannot be read"))?;
    if problems.is_empty() {
        return Ok(());
    }
    let fault = super::backup::unmasked(&world.settings.environment, job, mask, &problems);
    Err(Fault { kind: Kind::Refused, ..fault })
}

/// The release's commit has the migrations that piton.toml names.
async fn has_migrations(commit: &str, settings: &Settings) -> Result<(), Fault> {
    let Some(migrations) = settings.database.as_ref().and_then(|database| database.migrations.as_ref())
    else {
        return Ok(());
    };
    let folder = migrations.folder.display().to_string();
    if folder == "." || is_listed(commit, &settings.root, &["-d"], &folder).await? {
        return Ok(());
    }
    let short = commit.get(..7).unwrap_or(commit);
    Err(Fault::refused(format!("{short} has no folder {folder}"))
        .because("database.folder in piton.toml names it as the folder of migrations")
        .hint("name the right folder, or commit it"))
}

/// Tells whether a commit has a path; with `-d` among the options, whether that is a folder.
async fn is_listed(commit: &str, root: &Path, options: &[&str], path: &str) -> Result<bool, Fault> {
    let root = root.display().to_string();
    let command = Command::new("git")
        .args(["-C", &root, "ls-tree", "--name-only"])
        .args(options.iter().copied())
        .args([commit, "--", path]);
    let listed = local::run(&command).await.or_fault(|| "git could not list the commit".into())?;
    Ok(!listed.stdout.trim().is_empty())
}

/// The program that applies migrations is there, unless a build may make it.
fn migration_tool(settings: &Settings) -> Result<(), Fault> {
    let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
    let Some(program) = migrations.and_then(|migrations| migrations.tool.program()) else { return Ok(()) };
    if !settings.build.run.is_empty() || program.contains('/') || ports::on_path(&program) {
        return Ok(());
    }
    Err(Fault::refused(format!("{program} was not found on this machine"))
        .because("database.migrations needs it, and there is no build.run that could make it")
        .hint(format!(
            "install {program} so that it is found through PATH, or name in build.run what installs it"
        )))
}

async fn database_tools(world: &World) -> Result<(), Fault> {
    if !world.settings.backup.recipients.is_empty() && !ports::on_path("age") {
        return Err(Fault::refused("age was not found on this machine")
            .because("the env_file is backed up encrypted: backup.recipients in piton.toml")
            .hint("apt-get install age"));
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
    may_create(&world.settings).await
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

/// The room for what the job makes.
async fn disk_guard(world: &World, guard: &Guard) -> Result<(), Fault> {
    let settings = &world.settings;
    let unreadable = || "the database cannot be measured".to_owned();
    let fresh = guard.job == Job::Release && matches!(settings.data, Some(Data::Fresh { .. }));
    // Nobody knows what it will hold; what it replaces is not copied.
    let source = if fresh { None } else { database(world.from.as_ref().unwrap_or(settings))? };
    let live = match &source {
        Some(source) => match source.connect().await {
            Ok(client) => facts::read(&client).await.or_fault(unreadable)?.size,
            // It may be what was lost; otherwise the identity guard reports it.
            Err(_) => 0,
        },
        None => return Ok(()),
    };
    let mut needs = Vec::new();
    let mut size = live;
    match &guard.backup {
        None if guard.job == Job::Rollback => {}
        None => {
            let bytes = live + size_of_files(world)?;
            needs.push(Need { path: settings.backup.to.clone(), bytes, what: "the backup" });
        }
        Some(folder) => {
            let manifest = manifest_of(settings, folder).await?;
            if !folder.exists() {
                let (path, bytes) = (settings.backup.to.clone(), manifest.total_bytes());
                needs.push(Need { path, bytes, what: "the backup from the store" });
            }
            size = live.max(manifest.database_bytes.unwrap_or_default()).max(manifest.total_bytes());
            if let Some(path) = &guard.files {
                let bytes = manifest.archives.iter().map(|archive| archive.bytes).sum();
                needs.push(Need { path: path.clone(), bytes, what: "its files" });
            }
        }
    }
    let (copies, what) = match guard.job {
        Job::Release | Job::Clone => (2, "the golden copy and the rehearsal's copy"),
        Job::Backup | Job::Proof => (1, "the golden copy"),
        Job::Restore => (1, "the restored database"),
        Job::Rollback => (2, "the older database and its migrated copy"),
    };
    // The copies stand on the environment's own server; its disk can only be looked at when it is this machine's.
    if let Some(own) = database(settings)?
        && let Ok(client) = own.maintenance().await
        && let Ok(measured) = facts::read(&client).await
        && let Some(path) = measured.data_directory.filter(|path| path.is_dir())
    {
        needs.push(Need { path, bytes: copies * size, what });
    }
    room(&needs)
}

/// Reads the manifest of a backup that is in its folder, or in the store alone.
async fn manifest_of(settings: &Settings, folder: &Path) -> Result<Manifest, Fault> {
    match Manifest::read(folder) {
        Err(error @ DbError::NoManifest { .. }) => {
            let unreadable = || Fault::refused("the backup cannot be read").caused_by(&error);
            let store = super::store_of(settings)?.ok_or_else(unreadable)?;
            let read = store.read(&super::backup::id(folder)).await;
            Ok(read.map_err(|error| super::store_unusable(&settings.environment, &error))?.0)
        }
        read => read.or_fault(|| "the backup cannot be read".into()),
    }
}

/// The store answers and lets us look; that it can be written to is only known once something is.
async fn store_guard(settings: &Settings) -> Result<(), Fault> {
    if let Some(store) = super::store_of(settings)? {
        let listed = store.list().await;
        listed.map_err(|error| super::store_unusable(&settings.environment, &error))?;
    }
    Ok(())
}

/// Measures what is backed up besides the database; refuses a backup of what is not there.
fn size_of_files(world: &World) -> Result<u64, Fault> {
    if world.from.is_some() {
        return Ok(0);
    }
    let mut size = 0;
    for path in &world.settings.backup.files {
        size += files::size(path).map_err(|error| {
            Fault::refused(format!("{} cannot be backed up", path.display()))
                .caused_by(&error)
                .hint("backup.files in piton.toml names it: make it, or name what is there")
        })?;
    }
    Ok(size)
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
    let Some(start) = &world.serving else { return Ok(()) };
    let port = start.port;
    let settings = &world.settings;
    let path = &settings.run.ready.get;
    let (does, why) = match crate::http::get(port, path, std::time::Duration::from_secs(5)).await {
        Ok(answer) if answer.status < 500 => return Ok(()),
        Ok(answer) => ("is not well", format!("it answers {}", answer.status)),
        Err(error) => ("does not answer", error.to_string()),
    };
    Err(Fault::refused(format!("the release that serves {} {does}", settings.environment))
        .because(format!("GET {path} on port {port}: {why}; there would be nothing to go back to"))
        .hint(match start.processes().as_slice() {
            [] => format!("piton resume {} starts it again", settings.environment),
            running => {
                let running: Vec<String> = running.iter().map(ToString::to_string).collect();
                format!(
                    "once it answers again; or kill -9 {}, then piton resume {} starts it again",
                    running.join(" "),
                    settings.environment
                )
            }
        }))
}
