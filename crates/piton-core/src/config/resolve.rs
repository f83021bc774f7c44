//! Turns the file into the settings of one environment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use piton_db::lint::SYNTAX;
use piton_db::migrate::Tool;
use piton_db::replay::Down;
use piton_db::store::Place;
use piton_exec::{ExposeSecret, Secret};

use super::checks;
use super::context::{Context, Variables, has_variable};
use super::model::{self, KnownTool};
use super::secrets;
use super::settings::{
    Backup, Build, Data, DataFrom, Database, Engine, Gate, LintLevel, MaskFile, Migrations, Ports, Ready,
    Rollout, Run, RunWith, Settings, TableName,
};
use super::tools;
use super::values::{CommandLine, Percent, RolloutStep, ValueError, parse_duration, parse_listen};
use crate::files;
use crate::retention::Retention;

/// Where backups go when nothing else is said.
const BACKUPS: &str = "backups";

/// What a protected environment does when no rollout is configured, and what another one does.
const CAREFUL_STEPS: [&str; 4] = ["5% for 2h", "25% for 4h", "50% for 8h", "100%"];
const STEPS_AT_ONCE: [&str; 1] = ["100%"];

/// The file, the folder that it is in, and the environment that is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) root: &'a Path,
    pub(super) file: &'a model::File,
    pub(super) name: &'a str,
    pub(super) environment: &'a model::Environment,
}

impl Asked<'_> {
    /// Returns the path of a key of the environment.
    fn own(&self, key: &str) -> String {
        format!("environments.{}.{key}", self.name)
    }
}

/// Resolves every value; `None` when one is wrong, which the context notes, or not known yet.
pub(super) fn resolve(asked: Asked<'_>, variables: &Variables<'_>, cx: &mut Context<'_>) -> Option<Settings> {
    let Asked { root, file, name, environment } = asked;
    let protected = environment.protected.unwrap_or(false);
    cx.note("app", &file.app);
    let build = build(file, cx);
    let run = run(asked, cx);
    let database = file.database.as_ref().map(|database| self::database(root, database, cx));
    let gate = gate(file, cx);
    cx.note(&asked.own("protected"), protected);
    if let Some(after) = &environment.after {
        cx.note(&asked.own("after"), after);
    }
    let listen = listen(asked, cx);
    let rollout = rollout(asked, protected, cx);
    let data = environment.data.as_ref().map(|data| self::data(asked, data, cx));
    let backup = backup(asked, cx);
    let window = cx.optional(&asked.own("window"), environment.window.as_deref(), FromStr::from_str);
    let lint = lint(file, cx);
    let checks = checks::resolve(file, name, cx);
    Some(Settings {
        app: file.app.clone(),
        environment: name.to_owned(),
        protected,
        after: environment.after.clone(),
        root: root.to_owned(),
        build: build?,
        run: run?,
        database: match database {
            Some(database) => Some(database?),
            None => None,
        },
        listen: listen?,
        rollout: rollout?,
        gate: gate?,
        data: match data {
            Some(data) => Some(data?),
            None => None,
        },
        backup: backup?,
        window: window?,
        lint,
        checks: checks?,
        env_file: match variables {
            Variables::Known { env_file: Some(file), .. } => Some(root.join(&file.path)),
            _ => None,
        },
        vars: vars(asked, variables, cx),
        shared_secrets: file.secrets.iter().flat_map(|secrets| secrets.shared.iter().cloned()).collect(),
        origins: std::mem::take(&mut cx.origins),
    })
}

fn build(file: &model::File, cx: &mut Context<'_>) -> Option<Build> {
    let lines = file.build.as_ref().map(|build| &build.run[..]).unwrap_or_default();
    let run: Vec<Option<CommandLine>> = lines
        .iter()
        .enumerate()
        .map(|(i, line)| cx.required(&format!("build.run[{i}]"), line, FromStr::from_str))
        .collect();
    Some(Build { run: run.into_iter().collect::<Option<_>>()? })
}

fn run(asked: Asked<'_>, cx: &mut Context<'_>) -> Option<Run> {
    let run = &asked.file.run;
    let with = run.with.unwrap_or(RunWith::Process);
    cx.note_word("run.with", with);
    let command = cx.required("run.command", &run.command, FromStr::from_str);
    let get = cx.required("run.ready.get", &run.ready.get, parse_path);
    let within = cx.parse("run.ready.within", run.ready.within.as_deref(), "60s", parse_duration);
    let stop_within = cx.parse("run.stop_within", run.stop_within.as_deref(), "10s", parse_duration);
    let ports = Ports { blue: asked.environment.ports.blue, green: asked.environment.ports.green };
    cx.note(&asked.own("ports.blue"), ports.blue);
    cx.note(&asked.own("ports.green"), ports.green);
    Some(Run {
        with,
        command: command?,
        ready: Ready { get: get?, within: within? },
        stop_within: stop_within?,
        ports,
    })
}

/// Reads the path of a request.
pub(super) fn parse_path(text: &str) -> Result<String, ValueError> {
    let printable = text.bytes().all(|b| b.is_ascii_graphic());
    if text.starts_with('/') && printable {
        Ok(text.to_owned())
    } else {
        Err(ValueError::new(format!(
            "`{text}` is not the path of a request: it begins with `/` and has no spaces"
        )))
    }
}

fn database(root: &Path, database: &model::Database, cx: &mut Context<'_>) -> Option<Database> {
    let path = "database.url";
    let engine = database.engine.unwrap_or(Engine::Postgres);
    cx.note_word("database.engine", engine);
    if database.url.as_deref().and_then(secrets::password_of).is_some_and(|word| !has_variable(word)) {
        cx.refuse_unseen("`database.url` has a password in it, and piton.toml is no place for secrets: write the URL into the env_file as DATABASE_URL");
        return None;
    }
    let url = cx.secret(path, database.url.as_deref(), "${DATABASE_URL}");
    if let Some(url) = &url
        && !["postgres://", "postgresql://"].iter().any(|scheme| url.expose_secret().starts_with(scheme))
    {
        cx.refuse(path, "`database.url` is not of the form `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`");
    }
    let tool = migration_tool(root, database.migrations.as_ref(), cx);
    let found = tool.as_ref().and_then(|tool| tools::folder_of(tool, root));
    let folder = cx.optional("database.folder", database.folder.as_deref().or(found), parse_folder)?;
    let tool = tool?;
    if folder.is_none() && tool != Tool::Sql {
        cx.refuse(
            "database.migrations",
            "its folder was not found where the tool's convention has it: name it in `database.folder`",
        );
    }
    let downs: Vec<Option<Down>> =
        database.down.iter().enumerate().map(|(i, written)| down(i, written, cx)).collect();
    Some(Database {
        engine,
        url: url?,
        migrations: folder.map(|folder| Migrations { tool, folder }),
        downs: downs.into_iter().collect::<Option<_>>()?,
    })
}

fn down(i: usize, written: &model::Down, cx: &mut Context<'_>) -> Option<Down> {
    let own = |key: &str| format!("database.down[{i}].{key}");
    let mut text = |key: &str, written: &str, what: &str| {
        cx.required(&own(key), written, |text| match text.trim() {
            "" => Err(ValueError::new(format!("{what} is missing"))),
            text => Ok(text.to_owned()),
        })
    };
    let migration = text("migration", &written.migration, "the migration's name");
    let column = text("column", &written.column, "the column's name");
    let is = text("is", &written.is, "the expression");
    let table = cx.required(&own("table"), &written.table, TableName::from_str)?;
    Some(Down { migration: migration?, table: table.to_string(), column: column?, is: is? })
}

fn migration_tool(root: &Path, written: Option<&model::MigrationTool>, cx: &mut Context<'_>) -> Option<Tool> {
    let path = "database.migrations";
    let known = match written {
        None => match tools::find(root) {
            Some((other, folder)) if other != KnownTool::Sql => {
                let word = tools::word(other);
                cx.refuse(
                    "database",
                    format!(
                        "`database.migrations` is missing, and `{folder}` looks like {word}'s: write `migrations = \"{word}\"`, or \"sql\" for plain SQL files"
                    ),
                );
                return None;
            }
            _ => KnownTool::Sql,
        },
        Some(model::MigrationTool::Known(known)) => *known,
        Some(model::MigrationTool::Commands(commands)) => {
            let mut line = |key: &str, text: &str| {
                let line: CommandLine = cx.required(&format!("{path}.{key}"), text, FromStr::from_str)?;
                Some(std::iter::once(line.program).chain(line.args).collect::<Vec<_>>())
            };
            let (apply, status) = (line("apply", &commands.apply), line("status", &commands.status));
            return Some(Tool::Commands { apply: apply?, status: status? });
        }
    };
    cx.note_word(path, known);
    Some(tools::tool_of(known))
}

fn data(asked: Asked<'_>, data: &model::Data, cx: &mut Context<'_>) -> Option<Data> {
    let Some(from) = &data.from else {
        cx.note(&asked.own("data.fresh"), true);
        let seed = cx.optional(&asked.own("data.seed"), data.seed.as_deref(), FromStr::from_str)?;
        return Some(Data::Fresh { seed });
    };
    cx.note(&asked.own("data.from"), from);
    let empty: BTreeSet<String> = data.empty.iter().flatten().cloned().collect();
    if !empty.is_empty() {
        cx.note(&asked.own("data.empty"), empty.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    }
    let path = asked.own("data.mask");
    let file = cx.optional(&path, data.mask.as_deref(), parse_folder)?;
    let mask = match file {
        None => None,
        Some(file) => {
            let text = fs_err::read_to_string(asked.root.join(&file)).map_err(|error| error.to_string());
            let read = text.and_then(|text| {
                toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
            });
            match read {
                Ok(mask) => Some(MaskFile { file, mask }),
                Err(why) => {
                    cx.refuse(&path, format!("the mask cannot be read: {why}"));
                    return None;
                }
            }
        }
    };
    Some(Data::From(DataFrom { environment: from.clone(), empty, mask }))
}

/// Reads a folder or file of the app, which has to be there in every checkout of it.
fn parse_folder(text: &str) -> Result<PathBuf, ValueError> {
    let path = PathBuf::from(text);
    let inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if (inside || text == ".") && !text.is_empty() {
        Ok(path)
    } else {
        Err(ValueError::new(format!(
            "`{text}` is not a folder of the app: it is a path below piton.toml's folder"
        )))
    }
}

fn gate(file: &model::File, cx: &mut Context<'_>) -> Option<Gate> {
    let gate = file.gate.as_ref();
    let errors = cx.parse("gate.errors", gate.and_then(|g| g.errors.as_deref()), "1%", Percent::from_str);
    let p95 = cx.optional("gate.p95", gate.and_then(|g| g.p95.as_deref()), parse_duration);
    Some(Gate { errors: errors?, p95: p95? })
}

/// Every usual rule warns unless the file says otherwise: the rehearsal measures what a text can only suspect.
fn lint(file: &model::File, cx: &mut Context<'_>) -> BTreeMap<String, LintLevel> {
    let mut rules: BTreeMap<String, LintLevel> =
        piton_db::lint::usual_rules().map(|rule| (rule, LintLevel::Warn)).collect();
    // What is said of a rule by its own name holds, whatever a name for several says.
    let own_name = |rule: &str| piton_db::lint::rules_of(rule) == [rule];
    let (by_own, by_other): (Vec<_>, Vec<_>) = file.lint.iter().partition(|(rule, _)| own_name(rule));
    for (name, level) in by_other.into_iter().chain(by_own) {
        cx.note_word(&format!("lint.{name}"), *level);
        rules.extend(piton_db::lint::rules_of(name).into_iter().map(|rule| (rule, *level)));
    }
    // A rule that is to refuse must not be passed by what it cannot read.
    if rules.values().any(|level| *level == LintLevel::Error) && !file.lint.contains_key(SYNTAX) {
        rules.insert(SYNTAX.to_owned(), LintLevel::Error);
    }
    rules.retain(|_, level| *level != LintLevel::Off);
    rules
}

fn listen(asked: Asked<'_>, cx: &mut Context<'_>) -> Option<SocketAddr> {
    let (path, ports) = (asked.own("listen"), &asked.environment.ports);
    let listen = cx.required(&path, &asked.environment.listen, parse_listen)?;
    for (slot, port) in [("blue", ports.blue), ("green", ports.green)] {
        if port == listen.port() {
            cx.refuse(&path, format!("port {port} is the {slot} slot's: the proxy needs one of its own"));
        }
    }
    Some(listen)
}

fn rollout(asked: Asked<'_>, protected: bool, cx: &mut Context<'_>) -> Option<Rollout> {
    let own = asked.environment.rollout.as_ref();
    let common = asked.file.rollout.as_ref().filter(|_| protected);
    let own_path = asked.own("rollout");
    let source = |written: fn(&model::Rollout) -> bool| match (own, common) {
        (Some(own), _) if written(own) => (own_path.as_str(), Some(own)),
        (_, Some(common)) if written(common) => ("rollout", Some(common)),
        _ => (own_path.as_str(), None),
    };
    let (path, table) = source(|rollout| rollout.steps.is_some());
    let defaults: &[&str] = if protected { &CAREFUL_STEPS } else { &STEPS_AT_ONCE };
    let steps = match table.and_then(|table| table.steps.as_ref()) {
        Some(steps) => rollout_steps(&format!("{path}.steps"), steps, cx),
        None => rollout_steps(&format!("{path}.steps"), defaults, cx),
    };
    let (path, table) = source(|rollout| rollout.watch.is_some());
    let default = if protected { "24h" } else { "0s" };
    let watch = table.and_then(|table| table.watch.as_deref());
    let watch = cx.parse(&format!("{path}.watch"), watch, default, parse_duration);
    Some(Rollout { steps: steps?, watch: watch? })
}

fn rollout_steps<S: AsRef<str>>(path: &str, texts: &[S], cx: &mut Context<'_>) -> Option<Vec<RolloutStep>> {
    let place = |i: usize| format!("{path}[{i}]");
    let steps: Vec<Option<RolloutStep>> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| cx.required(&place(i), text.as_ref(), FromStr::from_str))
        .collect();
    let steps: Vec<RolloutStep> = steps.into_iter().collect::<Option<_>>()?;
    let mut before = Percent::ZERO;
    for (i, step) in steps.iter().enumerate() {
        if step.share <= before {
            cx.refuse(&place(i), format!("{} is not more than the {before} before it", step.share));
        }
        before = step.share;
    }
    match steps.last() {
        None => cx.refuse(path, "a rollout needs at least one step: `steps = [\"100%\"]`"),
        Some(last) if last.share != Percent::FULL => {
            cx.refuse(&place(steps.len() - 1), format!("the last step is 100%, not {}", last.share));
        }
        Some(_) => {}
    }
    Some(steps)
}

fn backup(asked: Asked<'_>, cx: &mut Context<'_>) -> Option<Backup> {
    let backup = asked.environment.backup.as_ref();
    let keep = backup.and_then(|backup| backup.keep.as_deref());
    let keep = cx.parse(&asked.own("backup.keep"), keep, "14d", parse_duration);
    let to = backup.and_then(|backup| backup.to.as_deref());
    let to = cx.parse(&asked.own("backup.to"), to, BACKUPS, |to| match to {
        "" => Err(ValueError::new("a backup needs a folder")),
        to => Ok(asked.root.join(to)),
    });
    let written = backup.and_then(|backup| backup.files.as_deref()).unwrap_or_default();
    let files: Vec<Option<PathBuf>> = written
        .iter()
        .enumerate()
        .map(|(i, file)| {
            cx.required(&asked.own(&format!("backup.files[{i}]")), file, |file| match file {
                "" => Err(ValueError::new("a folder or file is named by its path")),
                file => Ok(asked.root.join(file)),
            })
        })
        .collect();
    if let Some(to) = &to {
        for (i, (file, written)) in files.iter().zip(written).enumerate() {
            if let Some(why) = file.as_ref().and_then(|file| not_to_pack(asked, to, file)) {
                cx.refuse(&asked.own(&format!("backup.files[{i}]")), format!("`{written}` {why}"));
            }
        }
    }
    let recipients = backup.and_then(|backup| backup.recipients.as_deref()).unwrap_or_default();
    let recipients: Vec<Option<String>> = recipients
        .iter()
        .enumerate()
        .map(|(i, key)| cx.required(&asked.own(&format!("backup.recipients[{i}]")), key, parse_recipient))
        .collect();
    let store = backup.and_then(|backup| backup.store.as_ref()).map(|store| self::store(asked, store, cx));
    let mut count = |key: &str, written: Option<u32>| {
        let count = written.unwrap_or(0);
        cx.note(&asked.own(&format!("backup.{key}")), count);
        count
    };
    let last = count("last", backup.and_then(|backup| backup.last));
    let daily = count("daily", backup.and_then(|backup| backup.daily));
    let weekly = count("weekly", backup.and_then(|backup| backup.weekly));
    Some(Backup {
        retention: Retention { keep: keep?, last, daily, weekly },
        to: to?,
        files: files.into_iter().collect::<Option<_>>()?,
        recipients: recipients.into_iter().collect::<Option<_>>()?,
        store: match store {
            Some(store) => Some(store?),
            None => None,
        },
    })
}

/// Says why a folder or file is not packed into a backup, which is not encrypted: it has secrets or backups in it.
fn not_to_pack(asked: Asked<'_>, to: &Path, file: &Path) -> Option<String> {
    let Asked { root, file: config, .. } = asked;
    let own = std::iter::once((root.join(".piton"), "what Piton keeps for itself".to_owned()));
    let variables = config.environments.keys();
    let variables =
        variables.map(|name| (root.join(config.env_path(name)), format!("the variables of {name}")));
    let written = config.environments.values().map(|environment| {
        environment.backup.as_ref().and_then(|backup| backup.to.as_deref()).unwrap_or(BACKUPS)
    });
    let folders = written.filter(|to| !has_variable(to)).map(|to| root.join(to)).chain([to.to_owned()]);
    let backups = folders.map(|to| (to.join(&config.app), "the backups themselves".to_owned()));
    own.chain(variables).chain(backups).find_map(|(kept_out, what)| {
        let (path, kept_out) = (files::real(file), files::real(&kept_out));
        let shown = kept_out.strip_prefix(root).unwrap_or(&kept_out).display();
        let how = match (kept_out.starts_with(&path), path.starts_with(&kept_out)) {
            (true, true) => format!("is {what}"),
            (true, false) => format!("has {shown} in it, {what}"),
            (false, true) => format!("lies in {shown}, {what}"),
            (false, false) => return None,
        };
        let instead = "name the folders of what people have uploaded, like `uploads`; `backup.recipients` has the env_file backed up encrypted";
        Some(format!("{how}: {instead}"))
    })
}

fn store(asked: Asked<'_>, store: &model::Store, cx: &mut Context<'_>) -> Option<Place> {
    let own = |key: &str| asked.own(&format!("backup.store.{key}"));
    let url = cx.required(&own("url"), &store.url, parse_bucket);
    let endpoint = cx.optional(&own("endpoint"), store.endpoint.as_deref(), parse_endpoint);
    let region = cx.text(&own("region"), store.region.as_deref().unwrap_or("us-east-1"));
    let mut secret = |key: &str, written: Option<&str>| match written {
        Some(written) if !has_variable(written) => {
            cx.refuse_unseen(&format!(
                "`{}` has a secret in it, and piton.toml is no place for secrets: write a variable, like `${{BACKUP_KEY}}`",
                own(key)
            ));
            None
        }
        Some(written) => cx.secret(&own(key), Some(written), "").map(Some),
        None => Some(None),
    };
    let access_key = secret("access_key", store.access_key.as_deref());
    let secret_key = secret("secret_key", store.secret_key.as_deref());
    let keys = match (access_key?, secret_key?) {
        (Some(access), Some(secret)) => Some((access, secret)),
        (None, None) => None,
        (Some(_), None) => {
            cx.refuse(&own("access_key"), format!("`{}` is missing beside it", own("secret_key")));
            return None;
        }
        (None, Some(_)) => {
            cx.refuse(&own("secret_key"), format!("`{}` is missing beside it", own("access_key")));
            return None;
        }
    };
    let (bucket, prefix) = url?;
    Some(Place { bucket, prefix, endpoint: endpoint?, region: region?, keys })
}

/// Reads `s3://bucket/prefix`.
fn parse_bucket(text: &str) -> Result<(String, String), ValueError> {
    let parts = text.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
    match parts {
        Some((bucket, prefix)) if is_bucket(bucket) && is_prefix(prefix.trim_matches('/')) => {
            Ok((bucket.to_owned(), prefix.trim_matches('/').to_owned()))
        }
        _ => Err(ValueError::new("a store is written like `s3://bucket/prefix`")),
    }
}

fn is_bucket(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.bytes().all(fits)
}

/// What every store and tool spells the same.
fn is_prefix(prefix: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    prefix.is_empty()
        || prefix.split('/').all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(fits))
}

/// Reads the URL of a server, which has no user in it: plain HTTP only to this machine.
fn parse_endpoint(text: &str) -> Result<String, ValueError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:/[]_".contains(&byte);
    match text.split_once("://") {
        Some(("https", rest)) if !rest.is_empty() && rest.bytes().all(fits) => Ok(text.to_owned()),
        Some(("http", rest)) if rest.bytes().all(fits) => {
            let here = ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| {
                rest.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
            });
            if here {
                return Ok(text.to_owned());
            }
            Err(ValueError::new("backups go over https:// to another machine"))
        }
        _ => Err(ValueError::new("a server is written like `https://s3.example.com`")),
    }
}

/// Reads a public key of age; a secret one does not belong here.
fn parse_recipient(text: &str) -> Result<String, ValueError> {
    let is_key =
        text.starts_with("age1") && text.len() > 50 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_key {
        return Ok(text.to_owned());
    }
    Err(ValueError::new("this is no public key of age: it begins with `age1`, as age-keygen prints it"))
}

/// Takes all variables of the environment's file, none of which is shown.
fn vars(asked: Asked<'_>, variables: &Variables<'_>, cx: &mut Context<'_>) -> BTreeMap<String, Secret> {
    let Variables::Known { env_file: Some(file), .. } = variables else {
        return BTreeMap::new();
    };
    cx.note(&asked.own("env_file"), file.path.display());
    cx.note_variables(file);
    file.variables.iter().map(|(name, found)| (name.clone(), found.value.clone().into())).collect()
}
