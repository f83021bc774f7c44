//! Finds the `pg_dump` and `pg_restore` that fit a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use piton_exec::{Command, local, marker};

use crate::progress::{self, OnReport, Report};
use crate::{Database, DbError};

/// A pair of client programs of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// The path of `pg_dump`.
    pub pg_dump: PathBuf,
    /// The path of `pg_restore`.
    pub pg_restore: PathBuf,
    /// Such as `15.18`.
    pub version: String,
    /// The major version.
    pub major: u32,
}

impl Tools {
    /// Finds the programs for a server of this major version in Debian's folders and in `PATH`.
    ///
    /// The server's own version is preferred, then the nearest newer one: pg_restore 17 sends settings that a server 15
    /// does not know, so that "newest" would be the wrong choice.
    ///
    /// # Errors
    /// [`DbError::ToolMissing`] or [`DbError::ToolTooOld`], with the package to install.
    pub async fn find(server_major: u32) -> Result<Self, DbError> {
        let mut found = Vec::new();
        for folder in folders() {
            match Self::in_folder(&folder).await {
                // None fits better, and Debian's wrappers in PATH take their time to tell a version.
                Some(tools) if tools.major == server_major => return Ok(tools),
                Some(tools) => found.push(tools),
                None => {}
            }
        }
        Self::choose(found, server_major)
    }

    fn choose(mut found: Vec<Self>, server_major: u32) -> Result<Self, DbError> {
        // A stable sort keeps Debian's own folders before the wrappers in PATH.
        found.sort_by_key(|tools| tools.major);
        let newest = found.last().map(|tools| tools.major);
        let fits = found.into_iter().find(|tools| tools.major >= server_major);
        fits.ok_or(match newest {
            Some(found) => DbError::ToolTooOld { program: "pg_dump", server: server_major, found },
            None => DbError::ToolMissing { program: "pg_dump", major: server_major },
        })
    }

    async fn in_folder(folder: &Path) -> Option<Self> {
        let (pg_dump, pg_restore) = (folder.join("pg_dump"), folder.join("pg_restore"));
        let dump = version(&pg_dump).await?;
        let restore = version(&pg_restore).await?;
        let major = dump.split('.').next()?.parse().ok()?;
        (dump == restore).then_some(Self { pg_dump, pg_restore, version: dump, major })
    }
}

/// A variable in the environment of a tool and of its workers, which says what they write to.
///
/// The death of whoever started pg_dump or pg_restore ends the tool itself, and not the workers that it has forked: they would
/// go on writing under the next attempt.
pub(crate) struct WorkMark {
    name: &'static str,
    value: String,
}

impl WorkMark {
    /// How long a worker may take to end its statement.
    const GRACE: Duration = Duration::from_secs(2);

    /// Marks a dump into a folder.
    pub(crate) fn dump_into(dir: &Path) -> Result<Self, DbError> {
        Ok(Self { name: "PITON_DUMP", value: std::path::absolute(dir)?.display().to_string() })
    }

    /// Marks a restore into a database.
    pub(crate) fn restore_into(database: &Database) -> Self {
        Self { name: "PITON_RESTORE", value: format!("{}/{}", database.server(), database.dbname) }
    }

    /// Runs a tool under the mark, reports its end and wants success; `on_line` sees each line as it comes.
    pub(crate) async fn run(
        &self,
        command: &Command,
        report: OnReport<'_>,
        on_line: impl FnMut(&str, &mut dyn FnMut(Report)),
    ) -> Result<(), DbError> {
        let marked = command.clone().env(self.name, &self.value);
        let output = progress::run(&marked, command, report, on_line).await?;
        wanted_success(command, output)
    }

    /// Ends every process that carries the mark, and returns when none is left.
    pub(crate) async fn end_all(&self) {
        marker::stop(self.name, &self.value, Self::GRACE).await;
    }
}

/// How pg_restore names the entry of the dump that it could not restore, in lower case.
const ENTRY: &str = "from toc entry ";

/// Tells whether pg_restore ended because the server took a table's rows, or what they must keep to, for wrong.
pub(crate) fn rows_refused(said: &str) -> bool {
    const OF_ROWS: [&str; 6] = [
        "table data ",
        "materialized view data ",
        "constraint ",
        "fk constraint ",
        "check constraint ",
        "index ",
    ];
    // The servers' words, where they speak English; in any other case it is taken for something that passes.
    const REFUSED: [&str; 7] = [
        "violates",
        "duplicate key",
        "could not create unique index",
        "invalid input",
        "value too long",
        "out of range",
        "no unique constraint matching",
    ];
    let said = said.to_lowercase();
    // `from TOC entry 3345; 0 16384 TABLE DATA people app`
    let entries = said.lines().filter_map(|line| line.split_once(ENTRY)?.1.splitn(4, ' ').nth(3));
    let of_rows = entries.into_iter().any(|entry| OF_ROWS.iter().any(|kind| entry.starts_with(kind)));
    of_rows && REFUSED.iter().any(|words| said.contains(words))
}

/// Returns a tool's complaints, without the statements that failed and without the rows' values.
///
/// --verbose is for the progress; of the last words only the complaints are worth repeating. A label at the beginning of a line
/// says what follows, in lines without one as well: statements may hold passwords, and contexts the row.
fn complaints(said: &str) -> Vec<String> {
    let (mut complaints, mut told) = (Vec::new(), true);
    for line in said.lines() {
        let by_tool = ["pg_dump: ", "pg_restore: "].iter().find_map(|tool| line.strip_prefix(tool));
        let words = by_tool.unwrap_or(line);
        let begins = |labels: &[&str]| {
            let begins =
                |label: &&str| words.get(..label.len()).is_some_and(|word| word.eq_ignore_ascii_case(label));
            labels.iter().any(begins)
        };
        // What is not told goes on until the tool speaks again.
        told = by_tool.is_some() || told && !begins(&["command was", "context:", "statement:"]);
        // A value of several lines may say anything; what the tool says has its name in front.
        let labels: &[&str] = if by_tool.is_some() {
            &["error:", "fatal:", "detail:", "hint:", ENTRY]
        } else {
            &["DETAIL:  ", "HINT:  "]
        };
        if told && begins(labels) {
            complaints.push(without_values(line));
        }
    }
    complaints
}

/// Cuts the rows' values out of what a server says of them: of `Key (email)=(…) already exists.`
fn without_values(line: &str) -> String {
    for before in [")=(", "ow contains ("] {
        if let Some((what, values)) = line.split_once(before) {
            // A value of several lines does not end in this one.
            let rest = values.rsplit_once(')').map_or("", |(_, rest)| rest);
            let known = [".", " already exists.", " is duplicated."].contains(&rest)
                || rest.starts_with(" is not present in table ")
                || rest.starts_with(" is still referenced from table ");
            return format!("{what}{before}…){}", if known { rest } else { "" });
        }
    }
    // The servers' words, as in `rows_refused`: what is quoted in them is a value.
    let of_value =
        ["invalid input", "out of range", "malformed", "Token "].iter().any(|words| line.contains(words));
    match (line.split_once('"'), line.rsplit_once('"')) {
        (Some((what, _)), Some((_, rest))) if of_value => format!("{what}\"…\"{rest}"),
        _ => line.to_owned(),
    }
}

/// Turns any exit code but 0 into an error with the tool's complaints.
pub(crate) fn wanted_success(command: &Command, mut output: local::Output) -> Result<(), DbError> {
    if output.success() {
        return Ok(());
    }
    let complaints = complaints(&output.stderr);
    if !complaints.is_empty() {
        output.stderr = complaints.join("\n");
    }
    Err(piton_exec::ExecError::Failed { command: command.to_string(), output: Box::new(output) }.into())
}

fn folders() -> Vec<PathBuf> {
    let debian =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian.chain(std::env::split_paths(&path)).collect()
}

async fn version(program: &Path) -> Option<String> {
    if !program.exists() {
        return None;
    }
    let output = local::run(&Command::new(program.to_str()?).arg("--version")).await.ok()?;
    // "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let after = output.stdout.split_once("(PostgreSQL)")?.1;
    after.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(major: u32) -> Tools {
        Tools { pg_dump: "a".into(), pg_restore: "b".into(), version: format!("{major}.1"), major }
    }

    #[test]
    fn the_nearest_not_older_version_is_chosen() {
        assert_eq!(Tools::choose(vec![tools(18), tools(14), tools(16)], 15).unwrap().major, 16);
        let error = Tools::choose(vec![tools(14), tools(15)], 17).unwrap_err();
        assert!(error.to_string().contains("apt-get install postgresql-client-17"), "{error}");
        assert!(matches!(Tools::choose(vec![], 17), Err(DbError::ToolMissing { .. })));
    }

    #[test]
    fn rows_that_break_a_rule_are_known_by_the_entry() {
        let entry = "pg_restore: from TOC entry 3188; 2606 16390 FK CONSTRAINT orders orders_buyer_fkey app";
        let violated = "pg_restore: error: could not execute query: ERROR:  insert or update on table \"orders\" violates foreign key constraint";
        assert!(rows_refused(&format!("{entry}\n{violated}")));
        let rows = "pg_restore: from TOC entry 3345; 0 16384 TABLE DATA people app";
        assert!(rows_refused(&format!(
            "{rows}\nCOPY failed: ERROR:  value too long for type character varying(20)"
        )));
        assert!(!rows_refused(&format!("{rows}\nSSL SYSCALL error: EOF detected")));
        assert!(!rows_refused(&format!(
            "pg_restore: from TOC entry 216; 1259 16384 TABLE people app\n{violated}"
        )));
        assert!(!rows_refused(&format!("{entry}\nERROR:  could not extend file: No space left on device")));
        assert!(!rows_refused(&format!("{entry}\nserver closed the connection unexpectedly")));
    }

    #[test]
    fn complaints_hold_neither_statements_nor_values() {
        let said = "pg_restore: creating SUBSCRIPTION \"s\"\n\
            pg_restore: from TOC entry 3; 6100 1 SUBSCRIPTION s app\n\
            pg_restore: error: could not execute query: ERROR:  duplicate key value violates unique constraint \"k\"\n\
            DETAIL:  Key (email)=(ada (home)@mail.example) already exists.\n\
            Command was: CREATE SUBSCRIPTION s CONNECTION 'host=x\nerror: password=geheim' PUBLICATION p;\n\n\n\
            pg_restore: error: COPY failed: ERROR:  invalid input syntax for type integer: \"ada\"\n\
            DETAIL:  Failing row contains (1, ada).\n\
            DETAIL:  Failing row contains (2, Ada (home) Lovelace\nerror: of hers).\n\
            CONTEXT:  COPY logs, line 3, column n: \"error: login of ada\"\nerror: and of others\"\n\
            pg_restore: warning: errors ignored on restore: 1";
        let wanted = [
            "pg_restore: from TOC entry 3; 6100 1 SUBSCRIPTION s app",
            "pg_restore: error: could not execute query: ERROR:  duplicate key value violates unique constraint \"k\"",
            "DETAIL:  Key (email)=(…) already exists.",
            "pg_restore: error: COPY failed: ERROR:  invalid input syntax for type integer: \"…\"",
            "DETAIL:  Failing row contains (…).",
            "DETAIL:  Failing row contains (…)",
        ];
        assert_eq!(complaints(said), wanted);
    }

    #[tokio::test]
    async fn the_installed_programs_are_found() {
        let Some(bin) = piton_testkit::postgres::find_bin() else {
            return piton_testkit::postgres::skip("postgresql");
        };
        let found = Tools::in_folder(&bin).await.unwrap();
        assert_eq!(found.version.split('.').next().unwrap(), found.major.to_string());
    }
}
