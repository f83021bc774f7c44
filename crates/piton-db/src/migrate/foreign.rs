//! Runs a tool of its own, and believes its table alone.

use std::path::Path;
use std::time::{Duration, Instant};

use fs_err as fs;
use piton_exec::{Command, EnvValue, ExposeSecret, Secret, local};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::adapter::{Adapter, Known, Row};
use super::run::{backoff, holders, lock};
use super::sql::unfinished;
use super::stood::{Stood, structure};
use super::tool::{Files, Migrations, RecordTables};
use super::{Applied, MigrateOptions, Migration, MigrationError, Recorded, State, probe, script};
use crate::capture::triggers::MIGRATING;
use crate::error::Doing;
use crate::progress::{OnReport, Progress, Ran, Report, millis};
use crate::target::UrlTells;
use crate::{Database, DbError, Trouble};

/// What a tool runs with, besides its database.
#[derive(Clone, Debug)]
pub struct Around {
    /// The environment's variables; nothing else is inherited.
    pub env: Vec<(String, EnvValue)>,
    /// The URL of the environment's database, under whichever names the variables have it: each is made to name the database
    /// that is meant.
    pub url: Secret,
    /// Whether it has still to be proved that the tool uses the database that it is given.
    pub unproved: bool,
}

/// Folders that hold packages and not the app.
const PACKAGES: [&str; 4] = ["node_modules", "venv", "site-packages", "__pycache__"];

/// What a session of a tool is called, as far as its driver lets us say so.
const SESSION: &str = "piton migration";

/// Reads the files that say something about the migrations.
fn files(adapter: &dyn Adapter, folder: &Path) -> Result<Files, DbError> {
    let mut files = Files::new();
    let mut next = vec![folder.to_owned()];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                let is_own =
                    !name.starts_with('.') && !PACKAGES.contains(&name.as_str()) && !path.is_symlink();
                next.extend(is_own.then_some(path));
                continue;
            }
            let within = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            if adapter.reads(&within) {
                files.insert(within, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(files)
}

async fn rows(adapter: &dyn Adapter, files: &Files, client: &Client) -> Result<Vec<Row>, DbError> {
    let Some((table, query)) = adapter.rows(files) else { return Ok(Vec::new()) };
    let what = || format!("read {table}");
    let there = client.query_one("select pg_catalog.to_regclass($1) is not null", &[&table]).await;
    if !there.doing(what)?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = client.query(&query, &[]).await.doing(what)?;
    let row = |row: &tokio_postgres::Row| Row {
        name: row.get(0),
        finished: row.get(1),
        checksum: row.get(2),
        said: row.get(3),
    };
    Ok(rows.iter().map(row).collect())
}

/// The migrations as the files have them and as the record has them.
pub(super) struct Look {
    pub(super) files: Files,
    pub(super) known: Vec<Known>,
    pub(super) rows: Vec<Row>,
    pub(super) states: Vec<Migration>,
}

pub(super) async fn look(adapter: &dyn Adapter, folder: &Path, client: &Client) -> Result<Look, DbError> {
    let files = files(adapter, folder)?;
    let known = adapter.known(&files)?;
    let rows = rows(adapter, &files, client).await?;
    Ok(Look { states: adapter.join(&known, &rows), files, known, rows })
}

pub(super) async fn status(
    adapter: &dyn Adapter,
    folder: &Path,
    database: &Database,
) -> Result<Vec<Migration>, DbError> {
    Ok(look(adapter, folder, &*database.connect().await?).await?.states)
}

pub(super) async fn recorded(
    adapter: &dyn Adapter,
    folder: &Path,
    database: &Database,
) -> Result<Vec<Recorded>, DbError> {
    let states = status(adapter, folder, database).await?;
    let one = |migration: Migration| {
        let finished = migration.is_applied();
        let stands = finished || matches!(migration.state, State::HalfApplied { .. } | State::Failed { .. });
        stands.then_some(Recorded { name: migration.name, finished, done: 0 })
    };
    Ok(states.into_iter().filter_map(one).collect())
}

pub(super) async fn may_begin(
    adapter: &dyn Adapter,
    folder: &Path,
    database: &Database,
) -> Result<(), DbError> {
    Ok(refuse(adapter, &look(adapter, folder, &*database.connect().await?).await?)?)
}

/// Tells whether every migration has its file in the folder.
pub(super) fn has_all_files(adapter: &dyn Adapter) -> bool {
    adapter.rows(&Files::new()).is_some() && adapter.listing(Path::new(""), Path::new("")).is_none()
}

/// Refuses what is in the way of the next run.
fn refuse(adapter: &dyn Adapter, look: &Look) -> Result<(), MigrationError> {
    let in_the_way = |one: &&Migration| adapter.minds(one, &look.known, &look.rows);
    let Some(Migration { name, state }) = look.states.iter().find(in_the_way) else { return Ok(()) };
    let name = name.clone();
    Err(match state {
        State::Changed => MigrationError::Changed { name },
        State::Missing => MigrationError::NotInFolder { name },
        State::Failed { error } | State::HalfApplied { error: Some(error), .. } => {
            MigrationError::Unclear { name, why: format!("it failed: {}", gist(error)) }
        }
        _ => MigrationError::Unclear { name, why: "it began, and its end was not noted".into() },
    })
}

/// What stands between the names of migrations that are applied at once.
pub(super) const AND: &str = ", ";

/// The tool, its files and the database that it is to change.
pub(super) struct Run<'a> {
    pub(super) adapter: &'a dyn Adapter,
    pub(super) migrations: &'a Migrations,
    pub(super) database: &'a Database,
    pub(super) around: &'a Around,
    pub(super) options: MigrateOptions,
    pub(super) client: &'a Client,
}

pub(super) async fn apply(
    adapter: &dyn Adapter,
    migrations: &Migrations,
    database: &Database,
    around: &Around,
    options: MigrateOptions,
    report: OnReport<'_>,
    may_begin: &mut impl AsyncFnMut(Option<&str>) -> Result<(), DbError>,
) -> Result<Applied, DbError> {
    let client = database.connect().await?;
    // Of two Pitons one waits; the tool's own lock, where it has one, keeps others away.
    lock(&client, options.wait_for_other).await?;
    end_sessions(&client).await?;
    let exact = database.with_exact_ssl(&client).await?;
    let run = Run { adapter, migrations, database: &exact, around, options, client: &client };
    let (migrations, took) = match adapter.rows(&Files::new()) {
        Some(_) => run.pending(report, may_begin).await?,
        None => run.by_exit_code(report, may_begin).await?,
    };
    Ok(Applied { migrations, millis: millis(took), unfinished: unfinished(&client).await? })
}

impl Run<'_> {
    /// Runs the tool until its record has everything; returns what it has applied, and how long that took.
    async fn pending(
        &self,
        report: OnReport<'_>,
        may_begin: &mut impl AsyncFnMut(Option<&str>) -> Result<(), DbError>,
    ) -> Result<(Vec<String>, Duration), DbError> {
        let mut look = self.look().await?;
        refuse(self.adapter, &look)?;
        self.stay_within(&look.states)?;
        if self.around.unproved && (is_pending(&look.states) || self.listing().is_some()) {
            self.prove(report).await?;
        }
        let all = self.listed(report).await?;
        self.complete(&mut look, &all);
        let (mut applied, mut all_took) = (Vec::new(), Duration::ZERO);
        let total = look.states.iter().filter(|one| matches!(one.state, State::Pending)).count() as u64;
        while let Some(next) = next(&look) {
            let (what, done) = (self.step(&next, &look), applied.len() as u64);
            may_begin(Some(&what)).await?;
            report(Report::Progress(Progress { doing: "migrate", what, done, total }));
            all_took += self.one(&next, &look, report).await?;
            let mut after = self.look().await?;
            refuse(self.adapter, &after)?;
            self.complete(&mut after, &all);
            let was = |name: &str| look.states.iter().any(|one| one.name == name && one.is_applied());
            let new = after.states.iter().filter(|one| one.is_applied() && !was(&one.name));
            let before = applied.len();
            applied.extend(new.map(|one| one.name.clone()));
            if applied.len() == before {
                return Err(self.not_recorded(next.name).into());
            }
            look = after;
        }
        Ok((applied, all_took))
    }

    /// Names what the next run applies.
    fn step(&self, next: &Known, look: &Look) -> String {
        let names: Vec<String> = self.at_once(next, look).into_iter().map(|known| known.name).collect();
        names.join(AND)
    }

    /// Returns how long the next run may wait for a lock; zero is without end.
    fn patience(&self, next: &Known, look: &Look) -> Duration {
        let harmless = self.at_once(next, look).iter().all(|known| known.waits_harmlessly);
        if harmless { Duration::ZERO } else { self.options.lock_timeout }
    }

    /// Runs a tool whose record is not known, when its own look says that something is pending.
    async fn by_exit_code(
        &self,
        report: OnReport<'_>,
        may_begin: &mut impl AsyncFnMut(Option<&str>) -> Result<(), DbError>,
    ) -> Result<(Vec<String>, Duration), DbError> {
        let look = self.adapter.look(&self.migrations.app, &self.migrations.folder);
        if self.around.unproved {
            self.prove(report).await?;
        }
        let patience = self.options.lock_timeout;
        if self.run(look.clone(), patience, report).await?.success() {
            return Ok((Vec::new(), Duration::ZERO));
        }
        may_begin(None).await?;
        let apply = self.adapter.apply(&self.migrations.app, &self.migrations.folder, "");
        let name = apply.to_string();
        let known = Known { name: name.clone(), ..Known::default() };
        let before = Look { files: Files::new(), known: Vec::new(), rows: Vec::new(), states: Vec::new() };
        report(Report::Progress(Progress { doing: "migrate", what: name.clone(), done: 0, total: 1 }));
        let took = self.one(&known, &before, report).await?;
        let again = self.run(look, patience, report).await?;
        if !again.success() {
            let said = format!("{}: {}", self.adapter.by_hand(), Said::of(&again).last);
            let left = "it ended well, and the status command says that something is pending still".into();
            return Err(failed(name, said, left, None));
        }
        Ok((vec![name], took))
    }

    pub(super) async fn look(&self) -> Result<Look, DbError> {
        look(self.adapter, &self.migrations.folder, self.client).await
    }

    /// Refuses a pending script that changes what all databases of the server share.
    ///
    /// What is not SQL, and what holds psql's own commands, shows in a rehearsal alone what it changes.
    fn stay_within(&self, states: &[Migration]) -> Result<(), MigrationError> {
        let pending = states.iter().filter(|one| !one.is_applied());
        for (name, text) in pending.filter_map(|one| self.migrations.script(&one.name)) {
            let Ok(statements) = script::split(&text) else { continue };
            script::stays_within(&statements).map_err(|found| {
                let (line, why) = (found.line, found.why.to_owned());
                MigrationError::Script { name, line, why }
            })?;
        }
        Ok(())
    }

    fn listing(&self) -> Option<Command> {
        self.adapter.listing(&self.migrations.app, &self.migrations.folder)
    }

    /// Asks the tool for all migrations in their order, those of packages as well.
    async fn listed(&self, report: OnReport<'_>) -> Result<Vec<String>, DbError> {
        let Some(listing) = self.listing() else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        let dressed = self.dressed(listing.clone(), self.database, self.options.lock_timeout);
        let output = local::run_with(&dressed, |_, line| names.extend(self.adapter.listed(line))).await?;
        report(Report::Ran(ran(&listing, &output)));
        if !output.success() {
            let said = Said::of(&output);
            let trouble = trouble(self.client, &said).await;
            return Err(failed(listing.to_string(), said.last, "nothing was applied".into(), trouble));
        }
        Ok(names)
    }

    /// Puts the migrations of packages among those of the folder, in the tool's order.
    fn complete(&self, look: &mut Look, all: &[String]) {
        if all.is_empty() {
            return;
        }
        // Nobody has seen whether it runs in one transaction.
        let of_package = |name: &String| Known { name: name.clone(), ..Known::default() };
        let own = self.adapter.relabelled(std::mem::take(&mut look.known), all);
        let one = |name: &String| {
            own.iter().find(|known| known.name == *name).cloned().unwrap_or_else(|| of_package(name))
        };
        look.known = all.iter().map(one).collect();
        look.states = self.adapter.join(&look.known, &look.rows);
    }

    /// Applies one migration; again after a lock was not to be had, where that left nothing.
    async fn one(&self, next: &Known, before: &Look, report: OnReport<'_>) -> Result<Duration, DbError> {
        let at_once = self.at_once(next, before);
        let stood = Stood::of(self.adapter, self.database, &at_once).await?;
        let unfinished_before = unfinished(self.client).await?;
        let command = self.adapter.apply(&self.migrations.app, &self.migrations.folder, &next.name);
        let patience = self.patience(next, before);
        let mut attempt = 1;
        loop {
            let output = self.run(command.clone(), patience, report).await?;
            if output.success() {
                return Ok(output.elapsed);
            }
            let said = Said::of(&output);
            let trouble = trouble(self.client, &said).await;
            let (name, line) = (next.name.clone(), 0);
            if trouble == Some(Trouble::Away) {
                let left = "whether something of it was kept is not known; the tool's record tells".into();
                return Err(failed(name, said.last, left, trouble));
            }
            let clean = self.left_nothing(&at_once, before, &stood, &said).await?;
            if clean {
                self.forget(&at_once, before).await?;
            }
            let locked = said.has(&["55P03", "LockNotAvailable", "lock timeout"]);
            let (attempts, each) = (self.options.attempts, self.options.lock_timeout);
            if locked && clean && attempt < attempts {
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
                continue;
            }
            if locked && clean {
                let holders = holders(self.client).await;
                return Err(MigrationError::Locked { name, line, attempts, each, holders }.into());
            }
            if clean {
                let (said, left) = (said.last, "nothing of it was kept".into());
                let failed =
                    MigrationError::Failed { name, line, said, left, unnoted: false, clean, trouble };
                return Err(failed.into());
            }
            return Err(self.left_something(name, said.last, trouble, &unfinished_before).await);
        }
    }

    /// Says what a failure may have left, and what it surely has.
    async fn left_something(
        &self,
        mut name: String,
        said: String,
        trouble: Option<Trouble>,
        unfinished_before: &[String],
    ) -> DbError {
        let mut left = String::from("some of it may be kept");
        for new in unfinished(self.client).await.unwrap_or_default() {
            if !unfinished_before.contains(&new) {
                left.push_str("; ");
                left.push_str(&new);
            }
        }
        let look = self.look().await.ok();
        if let Some(stopped) = look.as_ref().filter(|_| self.adapter.applies_all()).and_then(next) {
            name = stopped.name;
        }
        let is_pending = |one: &Migration| one.name == name && one.state == State::Pending;
        let unnoted =
            !self.adapter.notes_failures() && look.is_some_and(|look| look.states.iter().any(is_pending));
        MigrationError::Failed { name, line: 0, said, left, unnoted, clean: false, trouble }.into()
    }

    /// Returns what the next run applies.
    fn at_once(&self, next: &Known, before: &Look) -> Vec<Known> {
        match self.adapter.applies_all() {
            true => pending(before).cloned().collect(),
            false => vec![next.clone()],
        }
    }

    /// Tells whether a run that failed has surely left nothing.
    async fn left_nothing(
        &self,
        at_once: &[Known],
        before: &Look,
        stood: &Stood,
        said: &Said,
    ) -> Result<bool, DbError> {
        // A tool that lost its session may have left it to commit.
        end_sessions(self.client).await?;
        let look = self.look().await?;
        let was = |name: &str| before.states.iter().any(|one| one.name == name && one.is_applied());
        if look.states.iter().any(|one| one.is_applied() && !was(&one.name)) {
            return Ok(false);
        }
        // What was refused of one transaction is gone. Else, as where the record is what failed, the structure has to tell.
        let is_of_script =
            |known: &Known| self.adapter.is_of_script(&known.name, &said.own, look.rows != before.rows);
        let refused = at_once.iter().all(|known| known.one_transaction && is_of_script(known));
        Ok(refused
            || (at_once.iter().all(|known| known.atomic)
                && *stood == Stood::of(self.adapter, self.database, at_once).await?))
    }

    /// Takes a failure that left nothing out of the tool's record, where it was not before.
    async fn forget(&self, at_once: &[Known], before: &Look) -> Result<(), DbError> {
        let look = self.look().await?;
        if look.rows == before.rows {
            return Ok(());
        }
        for known in at_once {
            if is_open(&look.states, &known.name) {
                let mark = self.adapter.mark(&look.files, &look.known, &look.rows, &known.name, false);
                write(self.client, &mark).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn run(
        &self,
        command: Command,
        patience: Duration,
        report: OnReport<'_>,
    ) -> Result<local::Output, DbError> {
        let dressed = self.dressed(command.clone(), self.database, patience);
        let output = local::run_with(&dressed, |_, line| report(Report::Said(line.to_owned()))).await?;
        report(Report::Ran(ran(&command, &output)));
        Ok(output)
    }

    /// Proves that the tool uses the database that it is given, before it may change one.
    async fn prove(&self, report: OnReport<'_>) -> Result<(), DbError> {
        let command = self.adapter.look(&self.migrations.app, &self.migrations.folder);
        let dressed =
            |database: &Database| self.dressed(command.clone(), database, self.options.lock_timeout);
        let heard = probe::hears(dressed, self.database).await?;
        let output = heard.output;
        report(Report::Ran(ran(&command, &output)));
        if heard.asked {
            return Ok(());
        }
        let said = Said::of(&output).last;
        let said = if said.is_empty() { said } else { format!("; it said: {said}") };
        let (how, mend) = deaf(&output, heard.wanted_tls, self.adapter.mend());
        Err(MigrationError::Deaf { command: command.to_string(), how, mend, said }.into())
    }

    fn dressed(&self, command: Command, database: &Database, patience: Duration) -> Command {
        let tells = match self.adapter.reads_url_alone() {
            true => UrlTells::Everything,
            false => UrlTells::AsGiven,
        };
        dressed(command, &self.migrations.app, database, self.around, patience, tells)
    }

    fn not_recorded(&self, name: String) -> MigrationError {
        let command = self.adapter.apply(&self.migrations.app, &self.migrations.folder, &name).to_string();
        let table = self.adapter.rows(&Files::new()).map_or("", |(table, _)| table);
        MigrationError::NotRecorded { name, command, table }
    }
}

/// Fills a database by the app's own program, which has to end with exit code 0.
///
/// Unlike a migration tool it has no command that only looks, by which it could be proved to use the database that it is given.
///
/// # Errors
/// [`MigrationError::Failed`], in which the program stands in the migration's place.
pub async fn seed(
    database: &Database,
    command: &Command,
    app: &Path,
    around: &Around,
    report: OnReport<'_>,
) -> Result<(), DbError> {
    let client = database.connect().await?;
    // One that was killed goes on writing.
    end_sessions(&client).await?;
    let exact = database.with_exact_ssl(&client).await?;
    let wait = MigrateOptions::default().lock_timeout;
    let dressed = dressed(command.clone(), app, &exact, around, wait, UrlTells::AsGiven);
    let output = local::run_with(&dressed, |_, line| report(Report::Said(line.to_owned()))).await?;
    report(Report::Ran(ran(command, &output)));
    if output.success() {
        return Ok(());
    }
    let said = Said::of(&output);
    let trouble = trouble(&client, &said).await;
    let left = format!("it ended with exit code {}, and some of it may be kept", output.code);
    Err(failed(command.to_string(), said.last, left, trouble))
}

pub(super) fn failed(name: String, said: String, left: String, trouble: Option<Trouble>) -> DbError {
    MigrationError::Failed { name, line: 0, said, left, unnoted: false, clean: false, trouble }.into()
}

/// Says what a tool did that did not ask for its database, and what makes it ask.
fn deaf(output: &local::Output, wanted_tls: bool, mend: &str) -> (String, String) {
    if wanted_tls {
        let how = "came to the server that DATABASE_URL names and wants TLS whatever the URL says, so that it was not seen which \
                   database it asks for";
        return (how.into(), "write sslmode=require into DATABASE_URL, and take it out of the code".into());
    }
    if output.success() {
        let how = "did not ask the database that DATABASE_URL names, so that a rehearsal would change another one, perhaps the \
                   live one";
        return (how.into(), mend.into());
    }
    let how = format!(
        "ended with exit code {} and did not ask the database that DATABASE_URL names: it failed before, or asked another one",
        output.code
    );
    (how, format!("mend what it says, or {mend}"))
}

fn ran(command: &Command, output: &local::Output) -> Ran {
    Ran { command: shown(command), code: output.code, took: output.elapsed }
}

/// Gives a command the app's variables, and the database under every name that a driver may look for.
fn dressed(
    mut command: Command,
    app: &Path,
    database: &Database,
    around: &Around,
    lock_timeout: Duration,
    tells: UrlTells,
) -> Command {
    let limit = lock_timeout.as_millis().to_string();
    let settings = [("lock_timeout", limit.as_str()), ("application_name", SESSION), MIGRATING];
    let url = database.tool_url(&settings, tells);
    if command.cwd.is_none() {
        command = command.cwd(app);
    }
    // An empty prefix is every variable's.
    command = command.without_env("");
    for (name, value) in &around.env {
        let is_url =
            matches!(value, EnvValue::Secret(value) if value.expose_secret() == around.url.expose_secret());
        command = match value {
            _ if is_url => command.secret_env(name, url.clone()),
            EnvValue::Secret(value) => command.secret_env(name, value.clone()),
            EnvValue::Plain(value) => command.env(name, value),
        };
    }
    // What a build made is compared by its digest later: Python shall put nothing beside its files.
    database
        .migrating_env(command, &settings, SESSION)
        .secret_env("DATABASE_URL", url)
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

/// Tells whether the surroundings failed, and not the migration.
pub(super) async fn trouble(client: &Client, said: &Said) -> Option<Trouble> {
    if said.has(&["53100", "No space left on device"]) {
        return Some(Trouble::Room);
    }
    let begin = Instant::now();
    // A server that comes up again refuses sessions for a moment.
    while begin.elapsed() < Duration::from_secs(1) {
        match client.simple_query("select").await {
            Ok(_) => return None,
            Err(_) if client.is_closed() => return Some(Trouble::Away),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Some(Trouble::Away)
}

fn next(look: &Look) -> Option<Known> {
    pending(look).next().cloned()
}

/// Lists what the database has not got, in the tool's order.
fn pending(look: &Look) -> impl Iterator<Item = &Known> {
    let not_applied =
        |known: &&Known| look.states.iter().any(|one| one.name == known.name && !one.is_applied());
    look.known.iter().filter(not_applied)
}

fn is_pending(states: &[Migration]) -> bool {
    states.iter().any(|one| !one.is_applied())
}

/// Tells whether the tool has noted a beginning of this one without an end.
fn is_open(states: &[Migration], name: &str) -> bool {
    let is_open = |state: &State| matches!(state, State::HalfApplied { .. } | State::Failed { .. });
    states.iter().any(|one| one.name == name && is_open(&one.state))
}

pub(super) async fn left_nothing(
    adapter: &dyn Adapter,
    folder: &Path,
    live: &Database,
    golden: &Database,
    before: &[Recorded],
) -> Result<bool, DbError> {
    let client = live.connect().await?;
    lock(&client, MigrateOptions::default().wait_for_other).await?;
    end_sessions(&client).await?;
    // What packages bring has no file to look into: it may have left rows where the record and the structure are as before.
    if !has_all_files(adapter) {
        return Ok(false);
    }
    let look = look(adapter, folder, &client).await?;
    let cut_off: Vec<&Known> =
        pending(&look).take(if adapter.applies_all() { usize::MAX } else { 1 }).collect();
    if cut_off.is_empty() {
        return Ok(adapter.rows(&Files::new()).is_some() && recorded(adapter, folder, live).await? == before);
    }
    let record = RecordTables::of(adapter);
    let shows = cut_off.iter().all(|known| known.shows);
    if !shows || structure(&record, live).await? != structure(&record, golden).await? {
        return Ok(false);
    }
    let is_new = |known: &&&Known| before.iter().all(|one| one.name != known.name);
    for known in cut_off.iter().filter(is_new).filter(|known| is_open(&look.states, &known.name)) {
        let mark = adapter.mark(&look.files, &look.known, &look.rows, &known.name, false);
        write(&client, &mark).await?;
    }
    Ok(recorded(adapter, folder, live).await? == before)
}

/// Names the migration that was begun last, if the database may have a part of it without a trace in the tool's record.
pub(super) async fn unnoted(
    adapter: &dyn Adapter,
    folder: &Path,
    database: &Database,
    begun: &str,
) -> Result<Option<String>, DbError> {
    if adapter.notes_failures() {
        return Ok(None);
    }
    let look = look(adapter, folder, &*database.connect().await?).await?;
    let is_applied = look.states.iter().any(|one| one.name == begun && one.is_applied());
    let known = look.known.iter().find(|known| known.name == begun);
    // What packages bring has no file that would tell.
    let may_leave_a_part = !begun.is_empty() && !is_applied && known.is_none_or(|known| !known.atomic);
    Ok(may_leave_a_part.then(|| begun.to_owned()))
}

/// Ends what a tool that was killed has left on the server: it may still commit.
pub(super) async fn end_sessions(client: &Client) -> Result<(), DbError> {
    let begin = Instant::now();
    loop {
        let left = client
            .query(
                "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
                 where datname = current_database() and application_name = $1 and usename = current_user",
                &[&SESSION],
            )
            .await
            .doing(|| "end the sessions of a migration that was cut off".into())?;
        if left.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(10) {
            let sessions = vec!["a migration that was cut off and does not end".to_owned()];
            return Err(DbError::InUse { name: "the database".into(), sessions });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the statements that record a migration as a person says, when it is one for a person.
pub(super) async fn statements(
    adapter: &dyn Adapter,
    folder: &Path,
    database: &Database,
    name: &str,
    applied: bool,
) -> Result<Vec<String>, DbError> {
    let look = look(adapter, folder, &*database.connect().await?).await?;
    let name = name.to_owned();
    let Some(one) = look.states.iter().find(|one| one.name == name) else {
        return Err(MigrationError::Unknown { name }.into());
    };
    let fits = match one.state {
        State::HalfApplied { .. } | State::Failed { .. } => true,
        // A tool without a trace of its failures leaves it to a person to have finished one.
        State::Pending => applied,
        State::Missing => !applied,
        // No row says that one is not applied.
        State::Unknown => applied && adapter.leaves_unknown(),
        State::Applied | State::Changed => false,
    };
    if !fits {
        return Err(MigrationError::NotHalfApplied { name, stands: one.state.in_words() }.into());
    }
    let statements = adapter.mark(&look.files, &look.known, &look.rows, &name, applied);
    if statements.is_empty() {
        return Err(MigrationError::ByTheTool { name, command: adapter.by_hand() }.into());
    }
    Ok(statements)
}

pub(super) async fn resolve(
    adapter: &dyn Adapter,
    folder: &Path,
    database: &Database,
    name: &str,
    applied: bool,
) -> Result<(), DbError> {
    let client = database.connect().await?;
    lock(&client, MigrateOptions::default().wait_for_other).await?;
    let statements = statements(adapter, folder, database, name, applied).await?;
    if write(&client, &statements).await? == 0 {
        return Err(MigrationError::ByTheTool { name: name.to_owned(), command: adapter.by_hand() }.into());
    }
    Ok(())
}

/// Changes the tool's record in one transaction; returns how many rows it changed.
pub(super) async fn write(client: &Client, statements: &[String]) -> Result<u64, DbError> {
    let all = format!("begin; {}; commit", statements.join("; "));
    match client.simple_query(&all).await {
        Ok(answers) => Ok(answers.iter().map(rows_changed).sum()),
        Err(error) => {
            // The first error is the one to tell.
            let _ = client.batch_execute("rollback").await;
            Err(error).doing(|| "change the tool's record of migrations".into())
        }
    }
}

fn rows_changed(answer: &SimpleQueryMessage) -> u64 {
    match answer {
        SimpleQueryMessage::CommandComplete(rows) => *rows,
        _ => 0,
    }
}

/// Prints a command as a person would type it.
fn shown(command: &Command) -> String {
    command.clone().secret_env("DATABASE_URL", Secret::default()).to_string()
}

/// What a program said.
pub(super) struct Said {
    /// All of it, without the statement that SQLAlchemy repeats after the server's words.
    own: String,
    /// The end of that, with the statement's first line.
    pub(super) last: String,
}

impl Said {
    pub(super) fn of(output: &local::Output) -> Self {
        let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let repeats = lines.iter().rposition(|line| line.starts_with("[SQL:"));
        let (own, shown) = repeats.map_or((lines.len(), lines.len()), |at| (at, at + 1));
        let from = shown.saturating_sub(LAST_LINES);
        Self { own: lines[..own].join("\n"), last: lines[from..shown].join("\n") }
    }

    /// Tells whether the server said one of these.
    pub(super) fn has(&self, signs: &[&str]) -> bool {
        signs.iter().any(|sign| self.own.contains(sign))
    }
}

/// Picks the server's words out of what a tool has noted.
fn gist(noted: &str) -> &str {
    let mut lines = noted.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or(noted);
    lines.find(|line| line.contains("ERROR:")).unwrap_or(first)
}

/// Enough for an error's last calls and the server's words.
const LAST_LINES: usize = 12;
