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
/// says what follows, in lines without one as well: statements may hold passwords, and contexts the row. Tools and their labels
/// speak English ([`in_english`]); a server may not.
fn complaints(said: &str) -> Vec<String> {
    let (mut complaints, mut told) = (Vec::new(), true);
    for line in said.lines() {
        let by_tool = TOOLS.iter().find_map(|tool| line.strip_prefix(tool));
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
            &["error:", "fatal:", "detail:", "hint:", LOADER, ENTRY]
        } else {
            &["DETAIL:  ", "HINT:  "]
        };
        if !told || !begins(labels) {
            continue;
        }
        let strange = if by_tool.is_some() && !begins(&[ENTRY]) { strange_words(line) } else { None };
        complaints.push(strange.clone().unwrap_or_else(|| without_values(line)));
        // Its further lines would be known for a row's by their words alone.
        told = strange.is_none();
    }
    complaints
}

/// What each line that a tool says by itself begins with.
const TOOLS: [&str; 2] = ["pg_dump: ", "pg_restore: "];

/// What the system says of a program that it cannot load.
const LOADER: &str = "error while loading shared libraries:";

/// Returns the line of a server that does not speak English, up to where its words may be a row's; `None` when it does.
fn strange_words(line: &str) -> Option<String> {
    // Words that its messages mostly have, and those of languages that call an error ERROR, too, have not.
    const ENGLISH: [&str; 26] = [
        "the",
        "of",
        "is",
        "not",
        "does",
        "by",
        "for",
        "to",
        "with",
        "at",
        "cannot",
        "could",
        "must",
        "too",
        "out",
        "already",
        "invalid",
        "malformed",
        "violates",
        "duplicate",
        "missing",
        "failed",
        "denied",
        "detected",
        "field",
        "while",
    ];
    // libpq puts them together with two blanks, whatever the language.
    let (before, said) = line.split_once(":  ")?;
    let severity = before.rsplit(' ').next().unwrap_or_default();
    let unquoted: String = said.split('"').step_by(2).collect();
    let is_english = ["ERROR", "FATAL", "PANIC"].contains(&severity)
        && unquoted.is_ascii()
        && unquoted.split(' ').any(|word| ENGLISH.contains(&word));
    // Each language has quotes of its own; a value may stand behind a colon without any.
    let may_be_value = |letter: char| {
        letter.is_ascii_digit()
            || matches!(letter, ':' | '：' | '(' | '（' | '[' | '{' | '"' | '\'' | '`')
            || matches!(letter, '«' | '»' | '‹' | '›' | '‘'..='‟' | '「'..='』' | '《' | '〈' | '＂')
    };
    let known = said.split(may_be_value).next().unwrap_or_default();
    let cut = if known.len() < said.len() { "…" } else { "" };
    (!is_english).then(|| format!("{before}:  {known}{cut}"))
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

/// Turns any exit code but 0 of pg_dump or pg_restore into an error with the tool's complaints.
pub(crate) fn wanted_success(command: &Command, mut output: local::Output) -> Result<(), DbError> {
    output.stderr = tellable(&output.stderr);
    succeeded(command, output)
}

/// Turns any exit code but 0 into an error with a program's last words: one that reads no rows.
pub(crate) fn succeeded(command: &Command, output: local::Output) -> Result<(), DbError> {
    if output.success() {
        return Ok(());
    }
    Err(piton_exec::ExecError::Failed { command: command.to_string(), output: Box::new(output) }.into())
}

/// Returns of a tool's words those that hold no rows and no passwords.
fn tellable(said: &str) -> String {
    // What keeps a tool from being started at all: Debian's wrapper, Perl, the loader.
    const FEW: usize = 20;
    let complaints = complaints(said);
    let has_begun = said.lines().any(|line| TOOLS.iter().any(|tool| line.starts_with(tool)));
    if !complaints.is_empty() {
        complaints.join("\n")
    } else if !has_begun && said.lines().count() <= FEW {
        said.to_owned()
    } else {
        "its words may hold rows or passwords and are not told; the server's log has what it answered".into()
    }
}

/// Lets one of PostgreSQL's programs speak English, whatever the shell does: by its words rows are told from complaints.
///
/// It changes no encoding: a session's is set, and a dump's is an argument.
pub(crate) fn in_english(command: Command) -> Command {
    // glibc follows LANGUAGE in every locale but `C` itself.
    command.env("LC_ALL", "C.UTF-8").env("LANGUAGE", "")
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

    #[test]
    fn what_is_not_known_is_not_told() {
        // pg_restore 15 in German, and its server.
        let german = "pg_restore: verbinde mit der Datenbank zur Wiederherstellung\n\
            pg_restore: in Phase PROCESSING TOC:\n\
            pg_restore: in Inhaltsverzeichniseintrag 3345; 0 16384 TABLE DATA people app\n\
            pg_restore: Fehler: COPY fehlgeschlagen für Tabelle »people«: FEHLER:  ungültige Eingabesyntax für Typ integer: »ada«\n\
            KONTEXT:  COPY people, Zeile 1, Spalte id: »ada«\n\
            Die Anweisung war: CREATE USER MAPPING FOR app SERVER far OPTIONS (password 'geheim')";
        assert!(tellable(german).contains("are not told"), "{}", tellable(german));

        // English of its own, and a server's German, Japanese and Spanish, of which two call an error an error.
        let servers = "pg_restore: from TOC entry 3345; 0 16384 TABLE DATA people app\n\
            pg_restore: error: COPY failed for table \"people\": FEHLER:  ungültige Eingabesyntax für Typ integer: »ada«\n\
            DETAIL:  Fehlgeschlagene Zeile enthält (1, ada).\n\
            CONTEXT:  COPY people, Zeile 1\n\
            pg_restore: error: could not execute query: FEHLER:  doppelter Schlüsselwert verletzt Unique-Constraint »k«\n\
            HINT:  ada\n\
            pg_restore: error: COPY failed for table \"people\": ERROR:  \"integer\"型の入力構文が不正です: \"ada\"\n\
            pg_restore: error: COPY failed for table \"people\": ERROR:  valor demasiado largo para el tipo character varying(20)\n\
            DETAIL:  ada\n\
            pg_restore: error: could not execute query: ERROR:  relation \"people\" does not exist\n\
            HINT:  Look for it.\n\
            Command was: CREATE USER MAPPING FOR app SERVER far OPTIONS (password 'geheim')";
        let wanted = [
            "pg_restore: from TOC entry 3345; 0 16384 TABLE DATA people app",
            "pg_restore: error: COPY failed for table \"people\": FEHLER:  ungültige Eingabesyntax für Typ integer…",
            "pg_restore: error: could not execute query: FEHLER:  doppelter Schlüsselwert verletzt Unique-Constraint …",
            "pg_restore: error: COPY failed for table \"people\": ERROR:  …",
            "pg_restore: error: COPY failed for table \"people\": ERROR:  valor demasiado largo para el tipo character varying…",
            "pg_restore: error: could not execute query: ERROR:  relation \"people\" does not exist",
            "HINT:  Look for it.",
        ];
        assert_eq!(tellable(servers).lines().collect::<Vec<_>>(), wanted);

        // What keeps a tool from being started holds no rows.
        for said in [
            "/usr/lib/postgresql/15/bin/pg_dump: error while loading shared libraries: libpq.so.5: cannot open shared object file",
            "pg_dump: error while loading shared libraries: libpq.so.5: cannot open shared object file",
            "Error: You must install at least one postgresql-client-<version> package",
            "setpriv: pg_dump: command not found",
        ] {
            assert_eq!(tellable(said), said);
        }
        let rows = "ada\n".repeat(200);
        assert!(!tellable(&rows).contains("ada"), "the end of what a tool has said");
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
