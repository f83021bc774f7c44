//! How a rescue file is loaded: in parts, each of which is in or not.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::super::apply::refusal;
use super::super::layout::{Layout, Table};
use super::super::session;
use super::checks::{self, Checks};
use super::put::{Loader, Put};
use super::{Kind, Line, lines_of, write};
use crate::error::{Doing, SqlError};
use crate::{Database, DbError};

/// How many lines go with one transaction: whoever wants to write a row of them waits that long.
const PART: usize = 1_000;

/// How many reasons are kept in words.
const WORDS: usize = 100;

/// How long a row that is locked is waited for.
const LOCK_WAIT: &str = "2s";

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
    /// The lines of what was left, by their numbers in the file.
    lines: Vec<(usize, Rest)>,
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
        self.lines.push((number, rest));
    }

    /// Counts the rows that could not be loaded, or not wholly.
    pub fn rows_left(&self) -> u64 {
        self.lines.len() as u64
    }
}

/// How far a file is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What came of it so far.
    pub loaded: Loaded,
    /// The lines of this round, by their numbers; `None` while it is all of them.
    round: Option<Vec<usize>>,
    /// How many of them are done.
    done: usize,
    /// The lines that were refused in this round: a row may refer to a later one.
    refused: Vec<usize>,
    /// Whether what is refused now is left.
    is_last: bool,
}

impl Progress {
    /// Writes what of a file is not in into one that a later release loads, or removes that where all is: what is in must not be put in
    /// once more, over what is written then.
    ///
    /// # Errors
    /// When the one file cannot be read, or the other not be written.
    pub fn write_rest(&self, of: &Path, file: &Path) -> Result<(), DbError> {
        let mut lines: Vec<Option<Line>> = lines_of(of)?.into_iter().map(Some).collect();
        let waiting: Vec<usize> = match &self.round {
            None => (self.done..lines.len()).collect(),
            Some(round) => round.iter().skip(self.done).copied().collect(),
        };
        let left = self.loaded.lines.iter().cloned();
        let waiting = self.refused.iter().copied().chain(waiting).map(|number| (number, Rest::AsItIs));
        let rest = |(number, rest): (usize, Rest)| Some(rest.of(lines.get_mut(number)?.take()?));
        let rest: Vec<Line> = left.chain(waiting).filter_map(rest).collect();
        match write(&rest, file)? {
            None if file.exists() => Ok(fs::remove_file(file)?),
            _ => Ok(()),
        }
    }

    /// Begins another round with what was refused; tells whether there is any.
    fn next_round(&mut self, lines: usize) -> bool {
        let before = self.round.as_ref().map_or(lines, Vec::len);
        // If nothing came in, nothing more will.
        self.is_last = self.refused.len() == before;
        // The other way round: of a chain in which each row refers to the next, all come in at once.
        self.refused.reverse();
        self.round = Some(std::mem::take(&mut self.refused));
        self.done = 0;
        self.round.as_ref().is_some_and(|round| !round.is_empty())
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
            status => return Ok(status == Some("committed")),
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
        let begin = format!("begin; set local lock_timeout = '{LOCK_WAIT}'{at_once}");
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
            let left = match &after.round {
                None => (after.done..self.lines.len()).take(PART).collect(),
                Some(round) => round.iter().skip(after.done).take(PART).copied().collect::<Vec<_>>(),
            };
            if !left.is_empty() {
                break left;
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
        for number in numbers.iter().copied() {
            let line = &self.lines[number];
            self.loader.client.batch_execute("savepoint line").await.doing(loading)?;
            let put = match self.loader.put(line).await {
                Err(error) => Put::Refused(refused_row(&error).ok_or(error)?),
                Ok(put) => put,
            };
            // One that is not released would keep a lock of its own to the end, of which a server has thousands for all.
            let end = match put {
                Put::Refused(_) => "rollback to line; release line",
                _ => "release line",
            };
            self.loader.client.batch_execute(end).await.doing(loading)?;
            match put {
                Put::Loaded => after.loaded.loaded += 1,
                Put::There => after.loaded.there += 1,
                Put::Left(rest, why) => {
                    after.loaded.loaded += u64::from(matches!(rest, Rest::Columns(_)));
                    after.loaded.leave(number, line, rest, &why);
                }
                Put::Refused(why) if after.is_last => after.loaded.leave(number, line, Rest::All, &why),
                Put::Refused(_) => after.refused.push(number),
            }
        }
        self.move_sequences(&numbers).await?;
        let number = "select pg_catalog.pg_current_xact_id()::text";
        let number: String = self.loader.client.query_one(number, &[]).await.doing(loading)?.get(0);
        let transaction =
            number.parse().map_err(|_| DbError::Replay(format!("{number} is no transaction")))?;
        Ok(Some(Part { after, transaction, load: self }))
    }

    /// Moves sequences behind the numbers that lines bring along.
    async fn move_sequences(&self, numbers: &[usize]) -> Result<(), DbError> {
        let layout = &self.loader.layout;
        for sequence in &layout.sequences {
            let column = |line: &Line| -> Option<i64> {
                let table = layout.named(&line.schema, &line.table)?.oid;
                let (_, column) = sequence.numbers.iter().find(|(numbered, _)| *numbered == table)?;
                let text = line.key.get(column).or_else(|| line.values.get(column)?.as_ref())?;
                text.split('.').next()?.parse().ok()
            };
            let used = numbers.iter().filter_map(|number| column(&self.lines[*number]));
            if let Some(used) = if sequence.ascends { used.max() } else { used.min() } {
                sequence.move_behind(&self.loader.client, used).await?;
            }
        }
        Ok(())
    }
}

/// Says why a row was refused, by the server or by what people have made in it; `None` where the server itself is in trouble.
fn refused_row(error: &DbError) -> Option<String> {
    const TROUBLE: [&str; 6] = ["08", "40", "53", "57", "58", "XX"];
    let DbError::Sql { source: SqlError(source), .. } = error else { return None };
    let code = source.as_db_error()?.code().code();
    let is_trouble = TROUBLE.iter().any(|class| code.starts_with(class));
    (!is_trouble).then(|| refusal(error).unwrap_or_else(|| format!("the server refuses it ({code})")))
}
