//! A migration of the corpus, as its file tells it.

use std::path::{Path, PathBuf};

use fs_err as fs;
use piton_db::replay::Down;

/// A migration with the words of an app before and after it.
///
/// A file begins with a comment in one line that says what it is about. Sections follow, each behind a line `-- == NAME`:
///
/// - `setup`: the old structure and its rows. Rows that the words change have the keys 1 to 30.
/// - `migrate`: a file of the migration; the section may occur several times.
/// - `old`: what the old app says, one template a line ([`super::words`] tells the placeholders).
/// - `new`: what the new app says, each line with a line `-- was: ` behind it that says the same in old words; nothing stands
///   there when the old structure does not hold it. After `-- was (other counts): ` the two may touch different numbers of rows.
/// - `both`: what either app says.
/// - `check`: queries of which each is answered alike by the rewound copy and the twin. A table that one of them names is not
///   compared whole.
/// - `quiet`: why the old app does not write while it migrates: its words mean something else afterwards.
/// - `refused`: the offer is refused, and each of these texts stands in one of the obstacles.
/// - `refused by the log`: so it is where the writes are read from the log; triggers tell more.
/// - `may be refused`: the same, or the rewind is right.
/// - `loses`: lines `schema.table.column: text` or `schema.table: text`; where the text stands in one of the costs, the column or
///   the table is not compared.
/// - `sequences apart`: sequences that may stand before the twin's.
/// - `down`: lines `table.column = expression` or `schema.table.column = expression`, for the down expressions of `piton.toml`.
/// - `aside`: lines `schema.table`; rows of it are set aside, and of no other table.
#[derive(Debug, Default)]
pub(super) struct Migration {
    pub(super) name: String,
    pub(super) setup: String,
    /// The text of each file.
    pub(super) files: Vec<String>,
    pub(super) old: Vec<Words>,
    pub(super) new: Vec<Words>,
    pub(super) checks: Vec<String>,
    pub(super) quiet: bool,
    pub(super) refused: Vec<String>,
    pub(super) refused_by_log: Vec<String>,
    pub(super) may_be_refused: Option<Vec<String>>,
    pub(super) loses: Vec<Loss>,
    pub(super) sequences_apart: Vec<String>,
    pub(super) downs: Vec<Down>,
    pub(super) aside: Vec<String>,
}

/// One template of what an app says.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub(super) said: String,
    /// The same in old words; `None` where they are.
    pub(super) was: Option<String>,
    /// Whether both touch the same number of rows.
    pub(super) alike: bool,
}

/// What of the live database has no place in the old structure, or the other way round.
#[derive(Debug)]
pub(super) struct Loss {
    /// `schema.table` or `schema.table.column`.
    pub(super) what: String,
    /// What stands in the cost.
    pub(super) said: String,
}

impl Migration {
    /// Reads a file; the error names what in it is not understood.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::parse(&name, &text).map_err(|why| format!("{name}.sql: {why}"))
    }

    /// Returns all that is done to the structure.
    pub(super) fn text(&self) -> String {
        format!("{}{}", self.setup, self.files.concat())
    }

    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut migration = Self { name: name.to_owned(), ..Self::default() };
        let (head, sections) = text.split_once("\n-- == ").ok_or("it has no section")?;
        if !head.starts_with("-- ") || head.contains('\n') {
            return Err("it does not begin with one line that says what it is about".into());
        }
        let mut both = Vec::new();
        for section in sections.split("\n-- == ") {
            let (title, body) = section.split_once('\n').unwrap_or((section, ""));
            match title {
                "setup" => body.clone_into(&mut migration.setup),
                "migrate" => migration.files.push(body.to_owned()),
                "old" => migration.old = words(body)?,
                "new" => migration.new = words(body)?,
                "both" => both = words(body)?,
                "check" => migration.checks = lines(body),
                "quiet" => migration.quiet = true,
                "refused" => migration.refused = lines(body),
                "refused by the log" => migration.refused_by_log = lines(body),
                "may be refused" => migration.may_be_refused = Some(lines(body)),
                "loses" => migration.loses = lines(body).iter().map(|line| loss(line)).collect(),
                "sequences apart" => migration.sequences_apart = lines(body),
                "down" => {
                    migration.downs = lines(body).iter().map(|line| down(line)).collect::<Result<_, _>>()?;
                }
                "aside" => migration.aside = lines(body),
                other => return Err(format!("there is no section {other}")),
            }
        }
        migration.old.extend(both.iter().cloned());
        migration.new.extend(both);
        if migration.old.iter().any(|words| words.was.is_some()) {
            return Err("old words have no older ones".into());
        }
        if migration.loses.iter().any(|loss| loss.said.is_empty()) {
            return Err("a cost says nothing".into());
        }
        if migration.setup.is_empty() || migration.files.is_empty() {
            return Err("it has no setup or no migration".into());
        }
        if migration.old.is_empty() || (migration.new.is_empty() && migration.refused.is_empty()) {
            return Err("an app says nothing".into());
        }
        Ok(migration)
    }
}

/// Returns all files of the corpus, by name.
pub(super) fn all() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn lines(body: &str) -> Vec<String> {
    let lines = body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("-- "));
    lines.map(str::to_owned).collect()
}

fn words(body: &str) -> Result<Vec<Words>, String> {
    let mut all: Vec<Words> = Vec::new();
    for line in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let was = line.strip_prefix("-- was:").map(|was| (was, true));
        let was = was.or_else(|| line.strip_prefix("-- was (other counts):").map(|was| (was, false)));
        match (was, all.last_mut()) {
            (Some((was, alike)), Some(words)) if words.was.is_none() => {
                let was = was.trim();
                words.was = Some(was.to_owned());
                words.alike = alike && !was.is_empty();
            }
            (Some(_), _) => return Err(format!("nothing was said before {line}")),
            (None, _) if line.starts_with("-- ") => {}
            (None, _) => all.push(Words { said: line.to_owned(), was: None, alike: true }),
        }
    }
    Ok(all)
}

fn down(line: &str) -> Result<Down, String> {
    let (what, is) = line.split_once(" = ").ok_or_else(|| format!("no down expression: {line}"))?;
    let (table, column) = what.rsplit_once('.').ok_or_else(|| format!("no column of a table: {what}"))?;
    let (table, column, is) = (table.to_owned(), column.to_owned(), is.to_owned());
    Ok(Down { migration: "000.sql".into(), table, column, is })
}

fn loss(line: &str) -> Loss {
    let (what, said) = line.split_once(": ").unwrap_or((line, line));
    Loss { what: what.trim().to_owned(), said: said.trim().to_owned() }
}
