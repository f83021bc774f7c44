//! A comparable look at everything that a release may touch.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use fs_err as fs;
use piton_exec::marker;
use piton_proxy::control::Client;
use piton_proxy::{Slot, Weights};
use serde_json::Value;

use super::Stage;

/// Everything that a release may touch, as named facts.
///
/// Facts are written without what differs between two looks at an unchanged world: process ids, times, object ids.
#[derive(Clone, PartialEq, Eq)]
pub struct World(BTreeMap<String, String>);

impl World {
    pub(super) fn look(stage: &Stage) -> Self {
        let mut facts = BTreeMap::new();
        for database in stage.databases() {
            look_at_database(stage, &database, &mut facts);
        }
        for environment in ["production", "staging"] {
            look_at_slots(stage, environment, &mut facts);
            stage.runtime.block_on(look_at_proxy(stage, environment, &mut facts));
        }
        for (release, count) in app_processes(stage) {
            facts.insert(format!("app processes of {release}"), count.to_string());
        }
        let root = stage.root();
        list(&root.join(".piton"), &root, &mut facts);
        list(&root.join("backups"), &root, &mut facts);
        for line in stage.git(&["worktree", "list", "--porcelain"]).lines() {
            if let Some(folder) = line.strip_prefix("worktree ")
                && !is_whole_artifact(Path::new(folder))
            {
                facts.insert(format!("git worktree {folder}"), "is there".into());
            }
        }
        Self(facts)
    }

    /// Returns the facts whose names satisfy the test.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(name, _)| wanted(name)).map(|(n, f)| (n.clone(), f.clone())).collect())
    }

    /// Returns the facts with a text replaced by another one in names and values, as to tell releases alike.
    #[must_use]
    pub fn replaced(&self, from: &str, to: &str) -> Self {
        Self(self.0.iter().map(|(name, fact)| (name.replace(from, to), fact.replace(from, to))).collect())
    }

    /// Returns the facts that the test changes: `None` leaves a fact out.
    #[must_use]
    pub fn mapped(&self, change: impl Fn(&str, &str) -> Option<(String, String)>) -> Self {
        Self(self.0.iter().filter_map(|(name, fact)| change(name, fact)).collect())
    }

    /// Returns the facts without what names this stage and its releases, to be compared with another stage's.
    ///
    /// Releases are told by their order, commits by their messages.
    ///
    /// # Panics
    /// When git or `piton` does not tell them.
    #[must_use]
    pub fn neutral(&self, stage: &Stage) -> Self {
        let mut names = vec![
            (stage.folder().display().to_string(), "FOLDER".to_owned()),
            (stage.name().to_owned(), "STAGE".to_owned()),
        ];
        for environment in ["production", "staging"] {
            let ports = stage.settings().environment(environment).ports;
            for (port, whose) in ports.iter().zip(["LISTEN", "BLUE", "GREEN"]) {
                names.push((format!(":{port}"), format!(":{whose}")));
            }
        }
        for line in stage.git(&["log", "--format=%H %s"]).lines() {
            let (hash, message) = line.split_once(' ').unwrap_or((line, ""));
            names.push((hash.to_owned(), format!("COMMIT-{message}")));
        }
        for (number, release) in stage.releases().iter().enumerate() {
            let short = &release[release.len() - 10..];
            names.push((release.clone(), format!("RELEASE-{number}")));
            names.push((short.to_owned(), format!("RELEASE-{number}")));
            names.push((short.to_lowercase(), format!("RELEASE-{number}")));
        }
        names.iter().fold(self.clone(), |world, (from, to)| world.replaced(from, to))
    }

    /// Returns one fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Lists what differs, one line each; a line begins with `-` for what was and with `+` for what is.
    pub fn changes_to(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for name in self.0.keys().chain(later.0.keys().filter(|name| !self.0.contains_key(*name))) {
            let (was, is) = (self.0.get(name), later.0.get(name));
            if was != is {
                lines.extend(was.map(|fact| format!("- {name}: {fact}")));
                lines.extend(is.map(|fact| format!("+ {name}: {fact}")));
            }
        }
        lines
    }

    /// Wants another world to be the same.
    ///
    /// # Panics
    /// With everything that differs.
    #[track_caller]
    pub fn assert_same(&self, later: &Self, when: &str) {
        let changes = self.changes_to(later);
        assert!(changes.is_empty(), "the world is another one {when}:\n{}", changes.join("\n"));
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, fact)| writeln!(f, "{name}: {fact}"))
    }
}

/// Owner, settings, grants and mark; structure; for each table the number and a digest of its rows.
fn look_at_database(stage: &Stage, database: &str, facts: &mut BTreeMap<String, String>) {
    let properties = stage.sql(
        "postgres",
        &format!(
            "select pg_get_userbyid(datdba), datallowconn, datconnlimit, datacl,
                    (select string_agg(setconfig::text, ' ') from pg_db_role_setting s where s.setdatabase = d.oid),
                    shobj_description(oid, 'pg_database')
             from pg_database d where datname = '{database}'"
        ),
    );
    facts
        .insert(format!("database {database}"), properties.iter().map(|text| without_places(text)).collect());
    let structure = stage.sql(
        database,
        "select format('%s %s.%s %s %s %s', 'column', table_schema, table_name, column_name, data_type, is_nullable)
         from information_schema.columns where table_schema not in ('pg_catalog', 'information_schema')
         union all select format('index %s%s', pg_get_indexdef(c.oid), case when not indisvalid then ' is invalid' end)
         from pg_index join pg_class c on c.oid = indexrelid
         where c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
         union all select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
         from pg_constraint where conrelid <> 0 and connamespace::regnamespace::text !~ '^(pg_|information_schema)'
         order by 1",
    );
    facts.insert(format!("structure of {database}"), structure.join("\n"));
    let tables = stage.sql(
        database,
        "select format('%I.%I', schemaname, tablename) from pg_tables
         where schemaname not in ('pg_catalog', 'information_schema') order by 1",
    );
    for table in tables {
        // When a migration ran is no part of the world that a release has to put back.
        let row = if table == "piton.migrations" {
            "t.name || ' ' || t.blake3 || ' ' || (t.finished_at is not null) || ' ' || coalesce(t.error, '')"
        } else {
            "t::text"
        };
        let rows = stage.sql(
            database,
            &format!("select count(*), md5(string_agg({row}, ',' order by {row})) from {table} t"),
        );
        facts.insert(format!("rows of {database} {table}"), rows.concat());
    }
}

/// Leaves out of a mark what names the place and the time that it was set at.
fn without_places(text: &str) -> String {
    let Some((before, mark)) = text.split_once("piton: ") else { return text.to_owned() };
    match serde_json::from_str::<Value>(mark) {
        Ok(Value::Object(mut mark)) => {
            for place in ["set_at", "oid", "system_identifier"] {
                mark.remove(place);
            }
            format!("{before}piton: {}", Value::Object(mark))
        }
        _ => text.to_owned(),
    }
}

/// Who answers on each slot's port.
fn look_at_slots(stage: &Stage, environment: &str, facts: &mut BTreeMap<String, String>) {
    let [_, blue, green] = stage.settings().environment(environment).ports;
    for (slot, port) in [("blue", blue), ("green", green)] {
        let answer = stage.get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "/health");
        let who =
            answer.map_or_else(|| "nobody".into(), |(status, release)| format!("{release} answers {status}"));
        facts.insert(format!("{environment} {slot}"), who);
    }
}

async fn look_at_proxy(stage: &Stage, environment: &str, facts: &mut BTreeMap<String, String>) {
    let dir = stage.root().join(".piton/environments").join(environment).join("proxy");
    let status = match Client::connect(&dir).await {
        Ok(mut client) => client.status().await.ok(),
        Err(_) => None,
    };
    let told = status.map_or_else(
        || "does not run".into(),
        |status| {
            let port = |slot: Slot| status.upstreams[slot].map_or(0, |address| address.port());
            format!(
                "blue :{} green :{}, {} of {} to green, hold {}, maintenance {}",
                port(Slot::Blue),
                port(Slot::Green),
                status.weights.green,
                Weights::all(Slot::Green).green,
                status.hold_until.is_some(),
                status.maintenance.is_some(),
            )
        },
    );
    facts.insert(format!("{environment} proxy"), told);
}

/// Counts the living processes of each release.
fn app_processes(stage: &Stage) -> BTreeMap<String, usize> {
    let home = stage.home();
    let mut count = BTreeMap::new();
    let of_stage: Vec<i32> = marker::find("HOME", &home).iter().map(|marked| marked.pid).collect();
    for pid in of_stage {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let release = environ
            .split(|byte| *byte == 0)
            .find_map(|var| std::str::from_utf8(var).ok()?.strip_prefix("PITON_RELEASE="));
        if let Some(release) = release {
            *count.entry(release.to_owned()).or_default() += 1;
        }
    }
    count
}

/// Names the files below and the folders of releases, backups and proxies; not what lies in these, nor logs and the journal.
/// Whole builds are kept for the next release; a folder without its record, or a record alone, is a leftover.
fn is_whole_artifact(path: &Path) -> bool {
    let Some(folder) = path.parent() else { return false };
    folder.ends_with(".piton/artifacts")
        && path.with_extension("json").is_file()
        && path.with_extension("").is_dir()
}

fn list(folder: &Path, root: &Path, facts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let last = entry.file_name().to_string_lossy().into_owned();
        let is_lock = folder.ends_with("artifacts") && last.ends_with(".lock");
        let is_own = name == ".piton/logs" || last == ".gitignore";
        if is_lock || is_own || is_whole_artifact(&path) || last.starts_with("journal.db") {
            continue;
        }
        let is_whole = last == "proxy"
            || folder.ends_with("artifacts")
            || folder.ends_with("slots")
            || path.join("dump").is_dir();
        if path.is_dir() && !is_whole {
            list(&path, root, facts);
        } else {
            facts.insert(format!("file {name}"), "is there".into());
        }
    }
}
