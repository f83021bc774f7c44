//! How a rescue file is loaded: in parts, each of which is in or not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;

use super::super::apply::refusal;
use super::super::layout::{Layout, Table};
use super::super::session;
use super::checks::{self, Checks};
use super::put::{Loader, Put};
use super::{Kind, Line, lines_of, write};
use crate::error::{Doing, SqlError};
use crate::{Database, DbError, files};

/// How many lines go with one transaction: whoever wants to write a row of them waits for its end.
const PART: usize = 1_000;

/// How many reasons are kept in words.
const WORDS: usize = 100;

/// How long a row that is locked is waited for.
const LOCK_WAIT: &str = "2s";

/// How long it is after the first that had to be left.
const SHORT_WAIT: &str = "1ms";

/// How often it is looked whether a session has ended.
const LOOK: Duration = Duration::from_millis(100);

/// What came of loading a rescue file, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Rows that were put in or completed.
    pub loaded: u64,
    /// Rows that are there already, just so.
    pub there: u64,
    /// What could not be loaded without overwriting something, in words, as far as these are not too many: the file still has it.
    pub left: Vec<String>,
    /// Whether triggers have fired once more, because the role may not keep them from it.
    pub fired: bool,
    /// The lines of what was left.
    lines: Vec<(Numbers, Rest)>,
}

/// Numbers of lines, in runs: what becomes of many lines mostly becomes of all of a table's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Numbers(Vec<Range<usize>>);

impl Numbers {
    /// Adds a number; in any order, but best in that of before or the other way round.
    fn add(&mut self, number: usize) {
        match self.0.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            Some(last) if last.start == number + 1 => last.start = number,
            _ => self.0.push(number..number + 1),
        }
    }

    fn count(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// Puts them into the order of the file.
    fn sort(&mut self) {
        self.0.sort_unstable_by_key(|run| run.start);
    }

    /// Lists at most so many behind the first `done`; sorted ones in the order of the file, or the other way round.
    fn listed(&self, mut done: usize, most: usize, backwards: bool) -> Vec<usize> {
        let mut listed = Vec::new();
        for at in 0..self.0.len() {
            let run = self.0[if backwards { self.0.len() - 1 - at } else { at }].clone();
            let passed = done.min(run.len());
            done -= passed;
            let left = most - listed.len();
            match backwards {
                true => listed.extend(run.rev().skip(passed).take(left)),
                false => listed.extend(run.skip(passed).take(left)),
            }
            if listed.len() == most {
                break;
            }
        }
        listed
    }
}

/// What of a line is kept for a later release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Rest {
    /// All of it. By then people have used what is there: nothing of it goes over that.
    All,
    /// Of its new columns, or of what somebody has written, only this; nothing of it goes over what is there by then.
    Columns(Vec<String>),
    /// All of it, as if nobody had loaded it.
    AsItIs,
}

impl Rest {
    fn of(&self, mut line: Line) -> Line {
        if let Self::Columns(columns) = self {
            if line.kind == Kind::NewColumns {
                line.values.retain(|name, _| columns.contains(name));
            }
            line.written.retain(|name| columns.contains(name));
        }
        if *self != Self::AsItIs {
            line.unsure = line.values.keys().cloned().collect();
        }
        line
    }
}

impl Loaded {
    fn leave(&mut self, number: usize, line: &Line, rest: Rest, why: &str) {
        if self.left.len() < WORDS {
            self.left.push(line.words(why));
        }
        match self.lines.iter_mut().find(|(_, known)| *known == rest) {
            Some((numbers, _)) => numbers.add(number),
            None => {
                let mut numbers = Numbers::default();
                numbers.add(number);
                self.lines.push((numbers, rest));
            }
        }
    }

    /// Counts the rows that could not be loaded, or not wholly.
    pub fn rows_left(&self) -> u64 {
        self.lines.iter().map(|(numbers, _)| numbers.count() as u64).sum()
    }
}

/// How far a file is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What came of it so far.
    pub loaded: Loaded,
    /// The lines of this round; `None` while it is all of them.
    round: Option<Numbers>,
    /// Whether the round goes from the end of the file to its beginning.
    backwards: bool,
    /// How many of its lines are done.
    done: usize,
    /// The lines that were refused in this round: a row may refer to a later one.
    refused: Numbers,
    /// Whether what is refused now is left.
    is_last: bool,
}

impl Progress {
    /// Lists the lines that this round has to do next, at most so many, of a file with so many lines.
    fn waiting(&self, lines: usize, most: usize) -> Vec<usize> {
        match &self.round {
            None => (self.done..lines).take(most).collect(),
            Some(round) => round.listed(self.done, most, self.backwards),
        }
    }

    /// Begins another round with what was refused; tells whether there is any.
    fn next_round(&mut self, lines: usize) -> bool {
        let before = self.round.as_ref().map_or(lines, Numbers::count);
        let mut refused = std::mem::take(&mut self.refused);
        refused.sort();
        let count = refused.count();
        // If nothing came in, nothing more will.
        self.is_last = count == before;
        // The other way round: of a chain in which each row refers to the next, all come in at once.
        self.backwards = !self.backwards;
        (self.round, self.done) = (Some(refused), 0);
        count > 0
    }

    /// Writes what of a file is not in into one that a later release loads, or removes that where all is: what is in must not be put in
    /// once more, over what is written then.
    ///
    /// # Errors
    /// When the one file cannot be read, or the other not be written.
    pub fn write_rest(&self, of: &Path, file: &Path) -> Result<(), DbError> {
        let mut lines: Vec<Option<Line>> = lines_of(of)?.into_iter().map(Some).collect();
        let count = lines.len();
        let mut rest = Vec::new();
        let mut take = |number: usize, as_what: &Rest| {
            let line = lines.get_mut(number).and_then(Option::take);
            rest.extend(line.map(|line| as_what.of(line)));
        };
        for (numbers, as_what) in &self.loaded.lines {
            numbers.0.iter().cloned().flatten().for_each(|number| take(number, as_what));
        }
        let waiting = [self.refused.listed(0, count, false), self.waiting(count, count)].concat();
        waiting.into_iter().for_each(|number| take(number, &Rest::AsItIs));
        match write(&rest, file)? {
            None if file.exists() => {
                fs::remove_file(file)?;
                files::sync_dir(file.parent().unwrap_or(Path::new(".")))
            }
            _ => Ok(()),
        }
    }
}

/// Has a file go over nothing that is there when it is loaded: its lines were not loaded, and the migration has stayed.
///
/// One that cannot be read goes over nothing, and is left as it is.
///
/// # Errors
/// When it cannot be written.
pub fn doubt(file: &Path) -> Result<(), DbError> {
    match lines_of(file) {
        Ok(lines) => {
            let lines = lines.into_iter().map(|line| Rest::All.of(line));
            write(&lines.collect::<Vec<_>>(), file).map(drop)
        }
        Err(DbError::Replay(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A rescue file that is put into a database which has been migrated again.
///
/// Done again, it finds all there that a key names; a row that nothing names but itself would come in once more.
///
/// Nothing that is there is overwritten but what the migration itself has put into new columns: nobody else can have written them
/// before the release is started. A row that does not fit is left and named. Triggers do not fire, where the role may keep them from it:
/// what they did when the row was written first is in the file, or has gone back with the rest.
#[derive(Debug)]
pub struct Load {
    loader: Loader,
    lines: Vec<Line>,
    /// What each transaction is begun with.
    begin: String,
    is_open: bool,
    fired: bool,
}

/// A part of a file, put into a database by a transaction that is still open: dropped, nothing of it is in.
#[derive(Debug)]
#[must_use = "nothing is in before it is committed"]
pub struct Part<'a> {
    /// How far the file is loaded when it is committed.
    pub after: Progress,
    /// The transaction, which [`is_committed`] knows.
    pub transaction: u64,
    load: &'a mut Load,
}

impl Part<'_> {
    /// Ends it.
    ///
    /// # Errors
    /// When the server is away: all of it is in, or nothing, as [`is_committed`] tells.
    pub async fn commit(self) -> Result<Progress, DbError> {
        self.load.loader.client.batch_execute("commit").await.doing(loading)?;
        self.load.is_open = false;
        Ok(self.after)
    }
}

fn loading() -> String {
    "load a rescue file".to_owned()
}

/// Tells whether a transaction has been committed; waits for one whose session has not ended yet.
///
/// # Errors
/// When the server cannot be asked.
pub async fn is_committed(database: &Database, transaction: u64) -> Result<bool, DbError> {
    let client = session(database).await?;
    loop {
        let status = "select pg_catalog.pg_xact_status($1::text::xid8)";
        let row = client.query_one(status, &[&transaction.to_string()]).await;
        let row = row.doing(|| "look whether a rescue file was loaded".into())?;
        match row.get(0) {
            Some("in progress") => tokio::time::sleep(LOOK).await,
            Some(status) => return Ok(status == "committed"),
            None => {
                let why = "the server does not know any more whether a part of the file is in";
                return Err(DbError::Replay(why.into()));
            }
        }
    }
}

impl Load {
    /// Reads a file, and looks how the database is laid out.
    ///
    /// # Errors
    /// [`DbError::Replay`] when the file is of another format or damaged; or when the database cannot be read.
    pub async fn open(database: &Database, file: &Path) -> Result<Self, DbError> {
        let client = session(database).await?;
        let lines = lines_of(file)?;
        let is_quiet = client.batch_execute("set session_replication_role = replica").await.is_ok();
        // Who keeps a row locked keeps that one from coming in, and no more. And where a constraint's own trigger fires, it does at
        // once: otherwise the last statement would fail for one row.
        let at_once = if is_quiet { "" } else { "; set constraints all immediate" };
        let begin = format!("begin{at_once}");
        let wait = format!("set lock_timeout = '{LOCK_WAIT}'");
        client.batch_execute(&wait).await.doing(loading)?;
        let layout = Layout::read(&client).await?;
        let names: BTreeSet<_> = lines.iter().map(|line| (&line.schema, &line.table)).collect();
        let tables: Vec<&Table> =
            names.into_iter().filter_map(|(schema, name)| layout.named(schema, name)).collect();
        let fired = !is_quiet && checks::have_triggers(&client, &tables).await?;
        let checks = match is_quiet {
            true => Checks::read(&client, &layout, &tables).await?,
            false => Checks::default(),
        };
        Ok(Self { loader: Loader::new(client, layout, checks), lines, begin, is_open: false, fired })
    }

    /// Puts the next part in, behind what is done; `None` when nothing is left to do.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn next(&mut self, before: &Progress) -> Result<Option<Part<'_>>, DbError> {
        let mut after = before.clone();
        let numbers = loop {
            let waiting = after.waiting(self.lines.len(), PART);
            if !waiting.is_empty() {
                break waiting;
            }
            if !after.next_round(self.lines.len()) {
                return Ok(None);
            }
        };
        after.done += numbers.len();
        after.loaded.fired = self.fired;
        if self.is_open {
            self.loader.client.batch_execute("rollback").await.doing(loading)?;
        }
        self.is_open = true;
        self.loader.client.batch_execute(&self.begin).await.doing(loading)?;
        let mut is_in = Vec::new();
        for number in numbers {
            let line = &self.lines[number];
            self.loader.client.batch_execute("savepoint line").await.doing(loading)?;
            let (put, is_locked) = match self.loader.put(line).await {
                Err(error) => {
                    let why = refused_row(&error);
                    let is_locked = code(&error).is_some_and(|code| *code == SqlState::LOCK_NOT_AVAILABLE);
                    (Put::Refused(why.ok_or(error)?), is_locked)
                }
                Ok(put) => (put, false),
            };
            // One that is not released would keep a lock of its own to the end, of which a server has thousands for all.
            let end = match put {
                Put::Refused(_) => "rollback to line; release line",
                _ => "release line",
            };
            self.loader.client.batch_execute(end).await.doing(loading)?;
            if is_locked {
                // One is waited for, not a thousand: whoever wants what is written here waits as long.
                let shortly = format!("set lock_timeout = '{SHORT_WAIT}'");
                self.loader.client.batch_execute(&shortly).await.doing(loading)?;
            }
            match put {
                Put::Loaded => {
                    after.loaded.loaded += 1;
                    is_in.push(number);
                }
                Put::There => after.loaded.there += 1,
                Put::Partly(left, why) => {
                    after.loaded.loaded += 1;
                    is_in.push(number);
                    after.loaded.leave(number, line, Rest::Columns(left), &why);
                }
                Put::Left(rest, why) => after.loaded.leave(number, line, rest, &why),
                Put::Refused(why) if after.is_last => after.loaded.leave(number, line, Rest::All, &why),
                Put::Refused(_) => after.refused.add(number),
            }
        }
        self.move_sequences(&is_in).await?;
        let number = "select pg_catalog.pg_current_xact_id()::text";
        let number: String = self.loader.client.query_one(number, &[]).await.doing(loading)?.get(0);
        let transaction =
            number.parse().map_err(|_| DbError::Replay(format!("{number} is no transaction")))?;
        Ok(Some(Part { after, transaction, load: self }))
    }

    /// Moves sequences behind the numbers that lines have brought along.
    async fn move_sequences(&self, numbers: &[usize]) -> Result<(), DbError> {
        let layout = &self.loader.layout;
        let mut by_table: BTreeMap<(&str, &str), Vec<&Line>> = BTreeMap::new();
        for line in numbers.iter().map(|number| &self.lines[*number]) {
            by_table.entry((&line.schema, &line.table)).or_default().push(line);
        }
        for ((schema, name), lines) in by_table {
            let Some(table) = layout.named(schema, name) else { continue };
            for sequence in &layout.sequences {
                let Some((_, column)) = sequence.numbers.iter().find(|(of, _)| *of == table.oid) else {
                    continue;
                };
                let number = |line: &&Line| -> Option<i64> {
                    let text = line.key.get(column).or_else(|| line.values.get(column)?.as_ref())?;
                    text.split('.').next()?.parse().ok()
                };
                let used = lines.iter().filter_map(number);
                if let Some(used) = if sequence.ascends { used.max() } else { used.min() } {
                    sequence.move_behind(&self.loader.client, used).await?;
                }
            }
        }
        Ok(())
    }
}

fn code(error: &DbError) -> Option<&SqlState> {
    let DbError::Sql { source: SqlError(source), .. } = error else { return None };
    source.code()
}

/// Says why a row was refused, by the server or by what people have made in it; `None` where the server itself is in trouble.
fn refused_row(error: &DbError) -> Option<String> {
    const TROUBLE: [&str; 6] = ["08", "40", "53", "57", "58", "XX"];
    let code = code(error)?;
    // What is rolled back to the savepoint waits for nobody any more.
    let is_trouble = *code != SqlState::T_R_DEADLOCK_DETECTED
        && TROUBLE.iter().any(|class| code.code().starts_with(class));
    (!is_trouble)
        .then(|| refusal(error).unwrap_or_else(|| format!("the server refuses it ({})", code.code())))
}
