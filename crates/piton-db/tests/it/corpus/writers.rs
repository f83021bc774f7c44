//! Three writers that say an app's words, and know what of it was committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use piton_db::{Database, Session};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::file::{Migration, Words};
use super::words::{Dice, Draws, Said, WRITERS};

/// What the writers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// They say old words, and nothing is migrated.
    Before,
    /// They say old words, and something is.
    Meanwhile,
    /// They say nothing.
    Quiet,
    /// They say new words.
    After,
    /// They are gone.
    Gone,
}

/// How long a writer thinks between two transactions: three of them shall not fill the disk while a dump is made.
const PAUSE: Duration = Duration::from_millis(8);

/// How many transactions a writer ends in one phase at most: what others do with the server may take long.
const ENOUGH: u64 = 500;

/// How long is waited for so many transactions; what is slow here is a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// A statement that was carried out, in a transaction that was committed.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) said: Said,
    /// How many rows it touched.
    pub(super) rows: u64,
    /// Whether the old words touch as many.
    pub(super) alike: bool,
    /// Whether it was said while something was migrated.
    pub(super) meanwhile: bool,
    which: (Phase, usize),
}

impl Told {
    /// Returns when it was said.
    pub(super) fn phase(&self) -> Phase {
        self.which.0
    }
}

/// All that a writer has committed, and how each template fared.
#[derive(Default)]
pub(super) struct Diary {
    pub(super) committed: Vec<Vec<Told>>,
    tries: Vec<((Phase, usize), Option<String>)>,
}

/// The writers at work.
pub(super) struct Crew {
    phase: watch::Sender<Phase>,
    tasks: Vec<JoinHandle<Diary>>,
    done: Arc<[AtomicU64; WRITERS as usize]>,
}

impl Crew {
    /// Sets three writers to work on a database; with `doubts`, a session may be lost, and what became of its transaction is asked.
    pub(super) fn start(live: &Database, migration: &Arc<Migration>, seed: u64, doubts: bool) -> Self {
        let (phase, _) = watch::channel(Phase::Before);
        let done: Arc<[AtomicU64; WRITERS as usize]> = Arc::default();
        let tasks = (0..WRITERS)
            .map(|number| {
                let dice = Dice::new(seed.wrapping_mul(WRITERS) + number, &migration.name);
                let writer = Writer {
                    live: live.clone(),
                    migration: migration.clone(),
                    draws: Draws::new(dice, number),
                    phase: phase.subscribe(),
                    diary: Diary::default(),
                    doubts,
                    number,
                    next: 0,
                };
                let done = done.clone();
                tokio::spawn(writer.work(move || {
                    done[usize::try_from(number).unwrap()].fetch_add(1, Ordering::SeqCst);
                }))
            })
            .collect();
        Self { phase, tasks, done }
    }

    /// Gives the writers something else to do.
    pub(super) fn turn_to(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until each writer has ended so many transactions more, or tried to.
    pub(super) async fn each_does(&self, count: u64) {
        let targets: Vec<u64> = self.done.iter().map(|done| done.load(Ordering::SeqCst) + count).collect();
        let all = async {
            while self.done.iter().zip(&targets).any(|(done, target)| done.load(Ordering::SeqCst) < *target) {
                assert!(self.tasks.iter().all(|task| !task.is_finished()), "a writer ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "the writers do not get on");
    }

    /// Waits until nobody writes, and lets them stay quiet.
    pub(super) async fn fall_quiet(&self) {
        self.turn_to(Phase::Quiet);
        // A turn without words counts: after two, the last transaction has ended.
        self.each_does(2).await;
    }

    /// Ends the writers; returns their diaries.
    pub(super) async fn go(mut self) -> Vec<Diary> {
        self.turn_to(Phase::Gone);
        let mut diaries = Vec::new();
        for task in std::mem::take(&mut self.tasks) {
            diaries.push(task.await.unwrap());
        }
        diaries
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Where a writer notes its transactions: the server gives their own numbers away again after a crash.
pub(super) const DOUBTS: &str = "create schema doubts; create table doubts.told (number bigint primary key)";

struct Writer {
    live: Database,
    migration: Arc<Migration>,
    draws: Draws,
    phase: watch::Receiver<Phase>,
    diary: Diary,
    doubts: bool,
    number: u64,
    /// How many transactions it has numbered.
    next: u64,
}

impl Writer {
    async fn work(mut self, done: impl Fn()) -> Diary {
        let mut session = None;
        let (mut last, mut turns) = (Phase::Gone, 0);
        loop {
            let phase = *self.phase.borrow();
            turns = if phase == last { turns + 1 } else { 0 };
            last = phase;
            match phase {
                Phase::Gone => return self.diary,
                Phase::Quiet => {}
                _ if turns > ENOUGH => {}
                _ => {
                    let client = match session.take() {
                        Some(client) => client,
                        None => self.connect().await,
                    };
                    session = self.transaction(client, phase).await;
                }
            }
            done();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Opens a session whose commits outlast a crash of the server.
    async fn connect(&self) -> Session {
        loop {
            match self.live.connect().await {
                Ok(client) => {
                    let set = "set synchronous_commit = on; set client_min_messages = error";
                    if client.batch_execute(set).await.is_ok() {
                        return client;
                    }
                }
                Err(error) => assert!(self.doubts, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Says something in a transaction; returns the session when it is still good.
    async fn transaction(&mut self, client: Session, phase: Phase) -> Option<Session> {
        let level = self.draws.level();
        let dice = &mut self.draws.dice;
        let alone = dice.chance(50);
        let repeatable = dice.chance(15);
        let rolls_back = !alone && dice.chance(12);
        let steps = if alone { 1 } else { 2 + dice.roll(4) };
        let begin = if repeatable { "begin isolation level repeatable read" } else { "begin" };
        let (mut told, mut number) = (Vec::new(), None);
        let plain = alone && !repeatable && !self.doubts;
        let said = async {
            if !plain {
                client.batch_execute(begin).await?;
            }
            if self.doubts {
                self.next += 1;
                number = Some(WRITERS * self.next + self.number);
                client
                    .batch_execute(&format!(
                        "insert into doubts.told values ({})",
                        WRITERS * self.next + self.number
                    ))
                    .await?;
            }
            for _ in 0..steps {
                if !alone && self.draws.dice.chance(20) {
                    self.within_a_savepoint(&client, phase, &mut told).await?;
                } else {
                    self.statement(&client, phase, &mut told).await?;
                }
            }
            match (plain, rolls_back) {
                (true, _) => Ok(true),
                (false, false) => client.batch_execute("commit").await.map(|()| true),
                (false, true) => client.batch_execute("rollback").await.map(|()| false),
            }
        };
        let ended: Result<bool, tokio_postgres::Error> = said.await;
        let (committed, error, good) = match ended {
            Ok(committed) => (committed, None, true),
            Err(error) if self.doubts && is_lost(&error) => {
                (self.became(number).await, Some(error.to_string()), false)
            }
            Err(error) => {
                let good = plain || client.batch_execute("rollback").await.is_ok();
                assert!(good || self.doubts, "the session is lost: {error:?}");
                (false, Some(words_of(&error)), good)
            }
        };
        if committed {
            self.diary.tries.extend(told.iter().map(|one: &Told| (one.which, None)));
            self.diary.committed.push(told);
        } else {
            // What was rolled back on purpose was carried out as well.
            if let Some(error) = error.filter(|_| good) {
                self.note_failure(&told, phase, &error);
            }
            self.draws.back_to(&level);
        }
        good.then_some(client)
    }

    /// A commit that fails is the failure of all that the transaction said; an earlier one was noted already.
    fn note_failure(&mut self, told: &[Told], phase: Phase, error: &str) {
        let noted = self.diary.tries.last().is_some_and(|(_, said)| said.as_deref() == Some(error));
        if !noted && phase != Phase::Meanwhile {
            self.diary.tries.extend(told.iter().map(|one| (one.which, Some(error.to_owned()))));
        }
    }

    async fn within_a_savepoint(
        &mut self,
        client: &Client,
        phase: Phase,
        told: &mut Vec<Told>,
    ) -> Result<(), tokio_postgres::Error> {
        let (level, before) = (self.draws.level(), told.len());
        client.batch_execute("savepoint s").await?;
        let mut said = Ok(());
        for _ in 0..=self.draws.dice.roll(2) {
            said = self.statement(client, phase, told).await;
            if said.is_err() {
                break;
            }
        }
        if said.is_ok() && self.draws.dice.chance(50) {
            return client.batch_execute("release savepoint s").await;
        }
        if said.as_ref().is_err_and(is_lost) {
            return said;
        }
        told.truncate(before);
        self.draws.back_to(&level);
        client.batch_execute("rollback to savepoint s").await
    }

    async fn statement(
        &mut self,
        client: &Client,
        phase: Phase,
        told: &mut Vec<Told>,
    ) -> Result<(), tokio_postgres::Error> {
        let migration = self.migration.clone();
        let all = if phase == Phase::After { &migration.new } else { &migration.old };
        let Some((number, words, said)) = self.choose(all) else { return Ok(()) };
        let which = (phase, number);
        match client.simple_query(&said.live).await {
            Ok(answers) => {
                let rows = touched(&answers);
                let meanwhile = phase == Phase::Meanwhile || *self.phase.borrow() != phase;
                told.push(Told { said, rows, alike: words.alike, meanwhile, which });
                Ok(())
            }
            Err(error) => {
                self.diary.tries.push((which, Some(words_of(&error))));
                Err(error)
            }
        }
    }

    /// Takes a template for which there are keys.
    fn choose<'a>(&mut self, all: &'a [Words]) -> Option<(usize, &'a Words, Said)> {
        (0..20).find_map(|_| {
            let number = usize::try_from(self.draws.dice.roll(all.len() as u64)).unwrap();
            Some((number, &all[number], self.draws.fill(&all[number])?))
        })
    }

    /// Asks what became of a transaction whose session was lost.
    async fn became(&self, number: Option<u64>) -> bool {
        let Some(number) = number else { return false };
        loop {
            let client = self.connect().await;
            let asked = client
                .simple_query(&format!("select count(*) from doubts.told where number = {number}"))
                .await;
            if let Some(count) = asked.ok().and_then(|answers| first(&answers)) {
                return count == "1";
            }
        }
    }
}

fn first(answers: &[SimpleQueryMessage]) -> Option<String> {
    answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Counts the rows that the statements of a template touched.
pub(super) fn touched(answers: &[SimpleQueryMessage]) -> u64 {
    let counts = answers.iter().map(|answer| match answer {
        SimpleQueryMessage::CommandComplete(count) => *count,
        _ => 0,
    });
    counts.sum()
}

/// Counts the statements that were committed.
pub(super) fn count(diaries: &[Diary]) -> usize {
    diaries.iter().flat_map(|diary| &diary.committed).map(Vec::len).sum()
}

fn is_lost(error: &tokio_postgres::Error) -> bool {
    let ended = [&SqlState::ADMIN_SHUTDOWN, &SqlState::CRASH_SHUTDOWN, &SqlState::CANNOT_CONNECT_NOW];
    error.code().is_none_or(|code| ended.contains(&code))
}

fn words_of(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}

/// Wants the words to be such that an app could live by them: four of five statements are committed, and each template has been
/// committed and has touched rows, before the migration and, where it came to that, after it.
pub(super) fn judge(migration: &Migration, diaries: &[Diary], migrated: bool) -> Vec<String> {
    let mut problems = Vec::new();
    for (phase, all) in [(Phase::Before, &migration.old), (Phase::After, &migration.new)] {
        if phase == Phase::After && !migrated {
            break;
        }
        let tries: Vec<_> =
            diaries.iter().flat_map(|diary| &diary.tries).filter(|(which, _)| which.0 == phase).collect();
        let good = tries.iter().filter(|(_, error)| error.is_none()).count();
        let last = tries.iter().rev().find_map(|(_, error)| error.as_deref()).unwrap_or("nothing");
        if good * 5 < tries.len() * 4 {
            problems.push(format!("{phase:?}: {good} of {} statements were committed; {last}", tries.len()));
        }
        for (number, words) in all.iter().enumerate() {
            let which = (phase, number);
            let mut told = diaries.iter().flat_map(|diary| diary.committed.iter().flatten());
            let touches = told.any(|one| one.which == which && one.rows > 0);
            if touches {
                continue;
            }
            let mine = tries.iter().filter(|(one, _)| *one == which);
            let error = mine.clone().find_map(|(_, error)| error.as_deref()).unwrap_or("it touches no row");
            problems.push(format!("{phase:?}: never, in {} tries: {}: {error}", mine.count(), words.said));
        }
    }
    problems
}
