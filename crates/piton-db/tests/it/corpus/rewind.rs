//! The rewind of a migration: every committed write on the golden copy, in the old structure.

use std::collections::BTreeSet;

use piton_db::backup::{self, DumpOptions};
use piton_db::capture::{self, Lsn, Snapshot, Source, triggers};
use piton_db::fingerprint::Structure;
use piton_db::identity::Purpose;
use piton_db::manifest::MadeFor;
use piton_db::migrate::RecordTables;
use piton_db::prove::{self, Owners};
use piton_db::replay::{self, Finished, Offer, Replay, Watch, Way};
use piton_db::{DbError, Session, changes};
use piton_testkit::postgres::StopMode;

use super::words::Dice;
use super::writers::Diary;
use super::{
    AFTER, Arc, BEFORE, Cluster, Crew, Database, MEANWHILE, MigrateOptions, Migration, Outcome, Phase, Place,
    SqlFolder, copy, folder, migrate, rows, writers,
};
use crate::{Cut, cut, label, quiet};

/// What happens to the replay meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing.
    Plain,
    /// Nothing; the writes are noted by triggers.
    Triggers,
    /// It is dropped in the middle, again and again.
    Kill,
    /// The server crashes: while the writers write, and while it is read what they wrote.
    Crash,
}

impl Mode {
    /// What the names of its databases begin with.
    fn prefix(self) -> &'static str {
        // They share a server, and may come to the same migration at once.
        match self {
            Self::Plain => "rewind",
            Self::Triggers => "noted",
            Self::Kill => "kill",
            Self::Crash => "crash",
        }
    }
}

/// How often a replay is dropped, and how often its server crashes.
const KILLS: usize = 10;
const CRASHES: usize = 2;

/// Within how many requests a replay is dropped.
const REQUESTS: u64 = 512;

/// Has the app live through a migration, and rewinds it.
pub(super) async fn with_rewind(
    cluster: &'static Cluster,
    migration: Arc<Migration>,
    seed: u64,
    mode: Mode,
) -> Outcome {
    let doubts = mode == Mode::Crash;
    let place = Place::new(cluster, &migration, mode.prefix(), doubts).await;
    let crew = Crew::start(&place.live, &migration, seed, doubts);
    let golden = place.live.with_name(&format!("{}_{}_golden", mode.prefix(), migration.name));
    let mut life = Life {
        cluster,
        migration: &migration,
        live: &place.live,
        source: match mode {
            Mode::Triggers => Source::Triggers,
            _ => Source::log(capture::slot_name(&format!("{mode:?}_{}", migration.name).to_lowercase())),
        },
        golden,
        dice: Dice::new(seed, &migration.name),
        mode,
        lost: Vec::new(),
        interrupted: 0,
    };
    let mut outcome = Box::pin(life.outcome(crew, &place.twin)).await;
    if let Err(error) = life.source.let_go(&place.live).await {
        outcome.problems.push(told(&error));
    }
    life.drop_database(&life.golden).await;
    place.clear().await;
    outcome
}

struct Life<'a> {
    cluster: &'static Cluster,
    migration: &'a Migration,
    live: &'a Database,
    golden: Database,
    source: Source,
    dice: Dice,
    mode: Mode,
    /// What the offer says is lost.
    lost: Vec<String>,
    /// How often the replay was killed, or its server crashed.
    interrupted: usize,
}

impl Life<'_> {
    async fn outcome(&mut self, crew: Crew, twin: &Database) -> Outcome {
        let wrong = |problem| Outcome { problems: vec![problem], ..Outcome::default() };
        match self.migrate(&crew).await {
            Err(problem) => wrong(problem),
            Ok(false) => {
                let diaries = crew.go().await;
                let problems = writers::judge(self.migration, &diaries, false);
                Outcome { problems, refused: true, statements: writers::count(&diaries), interrupted: 0 }
            }
            Ok(true) => match self.rewind(crew).await {
                Err(problem) => wrong(problem),
                Ok((diaries, finished)) => {
                    let mut problems = self.judge(twin, &diaries, &finished).await;
                    if matches!(self.mode, Mode::Kill | Mode::Crash) && self.interrupted == 0 {
                        problems.push("nothing was interrupted".into());
                    }
                    let (statements, interrupted) = (writers::count(&diaries), self.interrupted);
                    Outcome { problems, refused: false, statements, interrupted }
                }
            },
        }
    }

    /// Makes the golden copy, rehearses and migrates; false when the offer is refused.
    async fn migrate(&mut self, crew: &Crew) -> Result<bool, String> {
        crew.each_does(BEFORE / 4).await;
        let made = match &self.source {
            Source::Log { slot } => capture::create_slot(self.live, slot).await.map(drop),
            Source::Triggers => triggers::install(self.live, 1 << 30).await,
        };
        made.map_err(|error| told(&error))?;
        crew.each_does(BEFORE / 4).await;
        let sees = self.make_golden().await.map_err(|error| told(&error))?;
        if self.mode == Mode::Crash {
            crew.each_does(BEFORE / 4).await;
            self.crash().await;
        }
        crew.each_does(BEFORE / 2).await;

        let (_dir, folder) = folder(self.migration);
        let Some(way) = self.rehearse(&folder).await? else { return Ok(false) };
        if self.migration.quiet {
            crew.fall_quiet().await;
        } else {
            crew.turn_to(Phase::Meanwhile);
        }
        self.prepare(&sees, &way).await?;
        self.migrate_live(&folder).await?;
        if !self.migration.quiet {
            crew.each_does(MEANWHILE).await;
        }
        Ok(true)
    }

    async fn make_golden(&self) -> Result<Snapshot, DbError> {
        let made_for = MadeFor {
            app: "shop".into(),
            environment: "production".into(),
            release: "r1".into(),
            commit: String::new(),
            serving: None,
            from: None,
        };
        let dir = tempfile::tempdir()?;
        let dir = dir.path().join("backup");
        let options = DumpOptions { jobs: 1, ..DumpOptions::default() };
        let manifest = backup::dump(self.live, &dir, &made_for, options, &mut quiet).await?;
        let label = label(Purpose::Golden);
        prove::restore(&dir, &self.golden, &label, Owners::Kept, 1, &mut quiet).await?;
        let proof = prove::compare(&manifest, &self.golden, Owners::Kept, &mut quiet).await?;
        assert!(proof.is_equal(), "{:?}", proof.differences);
        Ok(manifest.sees.unwrap())
    }

    /// Migrates a copy of the golden copy; returns the way back, unless the rewind is not offered.
    async fn rehearse(&mut self, folder: &SqlFolder) -> Result<Option<Way>, String> {
        let copied = self.live.with_name(&format!("{}_{}_copy", self.mode.prefix(), self.migration.name));
        copy(self.cluster, &self.golden.dbname, &copied.dbname).await;
        let record = RecordTables::default();
        let watch = Watch::begin(&copied, &self.source).await.map_err(|error| told(&error))?;
        migrate(folder, &copied).await?;
        let own = watch.end(&record).await.map_err(|error| told(&error))?;
        let offer = replay::offer(&self.golden, &copied, &own, &record, &self.migration.downs).await;
        self.drop_database(&copied).await;
        self.judge_offer(offer.map_err(|error| told(&error))?)
    }

    fn judge_offer(&mut self, offer: Offer) -> Result<Option<Way>, String> {
        let Offer { obstacles, costs, way, .. } = offer;
        let by_log = self.mode != Mode::Triggers && !self.migration.refused_by_log.is_empty();
        let wanted = if by_log { &self.migration.refused_by_log } else { &self.migration.refused };
        let allowed = self.migration.may_be_refused.as_ref();
        let missing = |wanted: &[String]| {
            let stands = |text: &String| obstacles.iter().any(|obstacle| obstacle.contains(text));
            wanted.iter().find(|text| !stands(text)).cloned()
        };
        match (obstacles.is_empty(), wanted.is_empty(), allowed) {
            (true, false, _) => return Err(format!("it is offered, with the costs {costs:?}")),
            (false, true, None) => return Err(format!("it is refused: {obstacles:?}")),
            (false, _, allowed) => {
                return match missing(wanted).or_else(|| missing(allowed.map_or(&[], Vec::as_slice))) {
                    Some(text) => Err(format!("it is refused, and not for {text}: {obstacles:?}")),
                    None => Ok(None),
                };
            }
            (true, true, _) => {}
        }
        let told = |said: &String| costs.iter().any(|cost| cost.contains(said));
        let lost = self.migration.loses.iter().filter(|loss| told(&loss.said));
        self.lost = lost.map(|loss| loss.what.clone()).collect();
        // As it comes back from a plan.
        let stored = serde_json::to_string(&way).unwrap();
        Ok(Some(serde_json::from_str(&stored).unwrap()))
    }

    async fn prepare(&mut self, sees: &Snapshot, way: &Way) -> Result<(), String> {
        let (golden, live, record) = (self.golden.clone(), self.live, RecordTables::default());
        self.again(async || replay::prepare(&golden, live, sees, &record, way).await).await
    }

    /// Migrates the live database, file by file, and notes after each how it is laid out.
    async fn migrate_live(&mut self, folder: &SqlFolder) -> Result<(), String> {
        let (golden, live) = (self.golden.clone(), self.live);
        let mut files = 0;
        let noted = async |_: &str| {
            files += 1;
            if files == 1 { Ok(()) } else { replay::note_layout(&golden, live).await }
        };
        let applied = folder.apply_when(live, MigrateOptions::default(), &mut quiet, noted).await;
        applied.map_err(|error| format!("the migration: {}", told(&error)))?;
        self.again(async || replay::note_layout(&golden, live).await).await?;
        self.again(async || replay::note_applied(&golden).await).await
    }

    /// Does something that may be done twice; kills it once in between where replays are killed.
    async fn again(&mut self, act: impl AsyncFn() -> Result<(), DbError>) -> Result<(), String> {
        if self.mode == Mode::Kill {
            match cut(self.somewhere(32), act()).await {
                Some(Err(error)) => return Err(told(&error)),
                Some(Ok(())) => {}
                None => self.interrupted += 1,
            }
        }
        act().await.map_err(|error| told(&error))
    }

    /// Lets the app say new words while what it says is replayed, then holds it and replays the rest.
    async fn rewind(&mut self, crew: Crew) -> Result<(Vec<Diary>, Finished), String> {
        crew.turn_to(Phase::After);
        for _ in 0..2 {
            crew.each_does(AFTER / 2).await;
            self.reach().await?;
        }
        let end = async |replay: Replay| replay.finish().await?.commit().await;
        if self.disturbances() == 0 {
            let diaries = self.rewind_behind_a_look(crew).await;
            return diaries.map_err(|error| told(&error));
        }
        let diaries = crew.go().await;
        self.reach().await?;
        for _ in 0..self.disturbances() {
            if let Some(Err(error)) = self.disturbed(end).await
                && self.mode == Mode::Kill
            {
                return Err(told(&error));
            }
        }
        // It may have ended already: then again, to the same end.
        self.reach().await?;
        let finished = end(self.resume().await.map_err(|error| told(&error))?).await;
        let finished = finished.map_err(|error| told(&error))?;
        replay::give_up(&self.golden).await.map_err(|error| told(&error))?;
        Ok((diaries, finished))
    }

    /// Looks for broken rows while the app goes on, as a release does before it holds requests, and ends.
    async fn rewind_behind_a_look(&mut self, crew: Crew) -> Result<(Vec<Diary>, Finished), DbError> {
        let mut replay = self.resume().await?;
        replay.reach(self.now().await?).await?;
        replay.look_ahead().await?;
        crew.each_does(AFTER / 2).await;
        let diaries = crew.go().await;
        replay.reach(self.now().await?).await?;
        let finished = replay.finish().await?.commit().await?;
        replay::give_up(&self.golden).await?;
        Ok((diaries, finished))
    }

    async fn now(&self) -> Result<Lsn, DbError> {
        let client: Session = self.live.connect().await?;
        self.source.now(&client).await
    }

    /// Replays all that is committed now.
    async fn reach(&mut self) -> Result<(), String> {
        let upto = self.now().await.map_err(|error| told(&error))?;
        let to_there = async |mut replay: Replay| replay.reach(upto).await;
        for _ in 0..self.disturbances() {
            if let Some(Err(error)) = self.disturbed(to_there).await
                && self.mode == Mode::Kill
            {
                return Err(told(&error));
            }
        }
        let replay = self.resume().await.map_err(|error| told(&error))?;
        to_there(replay).await.map_err(|error| told(&error))
    }

    async fn resume(&self) -> Result<Replay, DbError> {
        Replay::resume(&self.golden, self.live, &self.source).await
    }

    fn disturbances(&self) -> usize {
        match self.mode {
            Mode::Plain | Mode::Triggers => 0,
            Mode::Kill => KILLS,
            Mode::Crash => CRASHES,
        }
    }

    /// Resumes the replay, does something with it, and disturbs that in the middle.
    async fn disturbed<T>(
        &mut self,
        act: impl AsyncFn(Replay) -> Result<T, DbError>,
    ) -> Option<Result<T, DbError>> {
        let at = self.somewhere(REQUESTS);
        let done = async { act(self.resume().await?).await };
        let ended = match self.mode {
            Mode::Crash => Some(tokio::join!(done, self.crash()).0),
            _ => cut(at, done).await,
        };
        if self.mode == Mode::Crash || ended.is_none() {
            self.interrupted += 1;
        }
        ended
    }

    /// Chooses where something is cut; an early place as often as a late one, because nobody knows how far it is to the end.
    fn somewhere(&mut self, within: u64) -> Cut {
        let limit = 2 << self.dice.roll(u64::from(within.ilog2()));
        let request = usize::try_from(1 + self.dice.roll(limit)).unwrap();
        if self.dice.chance(50) { Cut::Asked(request) } else { Cut::Answered(request) }
    }

    /// Ends the server as a crash does, and starts it again.
    async fn crash(&self) {
        let cluster = self.cluster;
        let crashed = tokio::task::spawn_blocking(move || {
            cluster.stop(StopMode::Immediate).and_then(|()| cluster.start_again())
        });
        crashed.await.unwrap().unwrap();
    }

    async fn drop_database(&self, database: &Database) {
        let client = self.cluster.connect("postgres").await;
        let drop = format!("drop database if exists \"{}\" with (force)", database.dbname);
        client.batch_execute(&drop).await.unwrap();
    }

    /// Compares the rewound copy with the twin, and with the structure before.
    async fn judge(&self, twin: &Database, diaries: &[Diary], finished: &Finished) -> Vec<String> {
        let mut problems = writers::judge(self.migration, diaries, true);
        problems.extend(rows::tell(twin, diaries).await);
        let (was, is) = (Structure::of(twin).await.unwrap(), Structure::of(&self.golden).await.unwrap());
        problems.extend(was.changes_to(&is).iter().map(|change| format!("the structure: {change}")));
        let aside: BTreeSet<String> = finished.aside.iter().map(|row| row.table.replace('"', "")).collect();
        let wanted: BTreeSet<String> = self.migration.aside.iter().cloned().collect();
        if aside != wanted {
            problems.push(format!(
                "rows are set aside of {aside:?}, wanted are {wanted:?}: {:?}",
                finished.aside
            ));
        }
        let mut lost = self.lost.clone();
        if changes::large_objects_apart(&self.golden, self.live).await.unwrap() > 0 {
            // No log tells of them: a release asks for this, and keeps its migration.
            lost.push(rows::LARGE_OBJECTS.to_owned());
        }
        problems.extend(rows::compare(self.migration, &lost, diaries, (&self.golden, twin)).await);
        problems
    }
}

fn told(error: &DbError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
