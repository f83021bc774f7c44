//! `kill -9` of the process that runs a release, at any point of its journal: carried on, it comes to the same end.
//!
//! A point is the moment before or after an event is appended. In a short run each kind of release is killed many times over, at
//! points from a seed (`PITON_SEED`); `scripts/campaign kill-points` kills a release of its own at every single point.

use crate::common::{
    BAD, assert_no_failures_but_of, assert_nothing_is_kept, following_stage, has_its_turn, live_stage,
    noting_stage,
};
use piton_testkit::load::Report;
use piton_testkit::stage::{Change, Output, Stage, World};

const MIGRATION: &str = "002_more.sql";

/// What is killed.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A good release with a migration.
    Good,
    /// A bad one with a migration, which the gate sends back.
    Bad,
    /// `rollback --database` of a good one that watches.
    Back,
    /// The same where later writes are carried back.
    CarriedBack,
    /// The same where triggers note them.
    NotedBack,
    /// A rollback to a backup, of which the later writes are lost.
    Older,
}

impl Kind {
    /// The exit code of a release that nobody kills.
    fn code(self) -> i32 {
        if self == Kind::Bad { 3 } else { 0 }
    }

    /// The exit code of what carries it on.
    fn code_of_resume(self) -> i32 {
        if matches!(self, Kind::Good | Kind::Older) { 0 } else { 3 }
    }

    fn command(self) -> &'static [&'static str] {
        match self {
            Kind::Good | Kind::Bad => &["deploy", "production"],
            Kind::Back => &["rollback", "production", "--database", "--yes"],
            Kind::CarriedBack | Kind::NotedBack => &["rollback", "production", "--database"],
            Kind::Older => &["rollback", "production", "--to", "latest", "--accept-loss", "1000000"],
        }
    }

    /// Whether a release that watches is sent back.
    fn goes_back(self) -> bool {
        self == Kind::Back || self.carries()
    }

    /// Whether what was written since the backup goes back as well.
    fn carries(self) -> bool {
        matches!(self, Kind::CarriedBack | Kind::NotedBack)
    }

    /// How many events lie between two kills, at most: the shorter a run, the fewer.
    fn stride(self) -> u64 {
        if self == Kind::Older { 3 } else { 9 }
    }

    /// Whether a database is replaced, and kept.
    fn replaces(self) -> bool {
        self.goes_back() || self == Kind::Older
    }
}

/// A production under load, on which one release after the other is killed.
struct Ground {
    stage: Stage,
    kind: Kind,
    releases: usize,
    /// The world after a release that nobody killed.
    calm: Option<World>,
}

/// What a release of the ground has come to.
struct Ran {
    report: Report,
    /// How many events its command has appended.
    events: u64,
}

impl Ground {
    fn new(kind: Kind) -> Option<Self> {
        let mut stage = match kind {
            Kind::CarriedBack => following_stage()?,
            Kind::NotedBack => noting_stage()?,
            Kind::Good | Kind::Bad | Kind::Back | Kind::Older => live_stage()?,
        };
        stage.configure(|settings| {
            settings.steps = vec!["50% for 300ms", "100%"];
            settings.watch = if kind.goes_back() { "10m" } else { "300ms" };
        });
        stage.write(&format!("migrations/{MIGRATION}"), "create table more (a int);");
        Some(Self { stage, kind, releases: 0, calm: None })
    }

    /// Runs one release under load; `run` runs its command, and whatever carries it on, to the end.
    fn release(&mut self, run: impl FnOnce(&Stage, Kind, i64)) -> Ran {
        self.releases += 1;
        let (stage, kind) = (&self.stage, self.kind);
        let name = format!("r{}", self.releases);
        stage.commit(&name, if kind == Kind::Bad { &[BAD] } else { &[] as &[Change<'_>] });
        let mut load = stage.load("production");
        if matches!(kind, Kind::Back | Kind::Older) {
            // What was written since the backup leaves the live database: to read it again would be 404.
            load.reads = vec!["/".into(), "/items".into()];
        }
        let load = load.start().unwrap();
        let writes = load.snapshot().acknowledged_writes;
        stage.eventually("writes", || load.snapshot().acknowledged_writes > writes);
        if kind.goes_back() {
            let deploy = stage.spawn(&["deploy", "production"], &[]);
            stage.eventually("the watch", || stage.is_running("production", "watch"));
            deploy.kill();
        }
        if kind == Kind::Older {
            stage.piton(&["backup", "production"]).expect(0);
            let writes = load.snapshot().acknowledged_writes;
            stage.eventually("writes", || load.snapshot().acknowledged_writes > writes);
        }
        let first = last_event(stage);
        run(stage, kind, first);
        let events = (last_event(stage) - first).unsigned_abs();
        let writes = load.snapshot().acknowledged_writes;
        stage.eventually("writes go on", || load.snapshot().acknowledged_writes > writes);
        Ran { report: stage.finish(load), events }
    }

    /// Wants the end to be the one of a release that nobody killed, no request to have failed and no write to be lost.
    fn check(&mut self, ran: &Ran, when: &str) {
        let stage = &self.stage;
        let bad = if self.kind == Kind::Bad { format!("r{}", self.releases) } else { "no release".into() };
        assert_no_failures_but_of(&ran.report, &bad);
        let live = stage.database("production");
        let mut lost = stage.lost_writes(&ran.report, &live);
        let replaced: Vec<_> = stage.databases().into_iter().filter(|name| *name != live).collect();
        // What is carried back is in the live database itself.
        for database in replaced.iter().filter(|_| !self.kind.carries()) {
            let missing = stage.lost_writes(&ran.report, database);
            lost.retain(|id| missing.contains(id));
        }
        assert!(lost.is_empty(), "{when}: acknowledged and lost: {lost:?}");
        assert_eq!(replaced.len(), usize::from(self.kind.replaces()), "{when}: {replaced:?}");
        if self.kind == Kind::Older {
            self.check_file(&ran.report, when);
        }
        assert_nothing_is_kept(stage, when);
        let end = end_of(stage);
        match &self.calm {
            Some(calm) => calm.assert_same(&end, when),
            None => self.calm = Some(end),
        }
        stage.piton(&["log", "--verify"]).expect(0);
        // The next release shall find what this one has found.
        for database in replaced {
            stage.sql("postgres", &format!("drop database \"{database}\""));
        }
        let forget =
            format!("drop table if exists more; delete from piton.migrations where name = '{MIGRATION}'");
        stage.sql(&live, &forget);
    }

    /// Wants the file to have what is lost from the live database, each row once; removes it.
    fn check_file(&self, report: &Report, when: &str) {
        let folder = self.stage.root().join(".piton/environments/production/lost");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| !path.ends_with(".gitignore")).collect();
        assert_eq!(files.len(), 1, "{when}: {files:?}");
        let text = std::fs::read_to_string(&files[0]).unwrap();
        let lines = text.lines().skip(1).map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let told: Vec<_> = lines.map(|line| line["key"]["id"].as_str().unwrap().to_owned()).collect();
        let mut lost = self.stage.lost_writes(report, &self.stage.database("production"));
        lost.sort();
        assert!(!lost.is_empty(), "{when}");
        assert_eq!(told, lost, "{when}");
        std::fs::remove_file(&files[0]).unwrap();
    }

    /// Runs a release that nobody kills; returns how many events its command appends.
    fn calm(&mut self) -> u64 {
        let ran = self.release(|stage, kind, _| {
            stage.piton(kind.command()).expect(kind.code());
        });
        self.check(&ran, "without a kill");
        ran.events
    }

    /// Kills a release at one point and carries it on; returns whether it came to that point.
    fn killed_at(&mut self, event: u64, side: &str) -> bool {
        let mut reached = false;
        let ran = self.release(|stage, kind, first| {
            let killed = killed(stage, kind.command(), first + event.cast_signed(), side);
            reached = killed.code == 137;
            if reached {
                carry_on(stage, kind, first);
            } else {
                killed.expect(kind.code());
            }
        });
        self.check(&ran, &format!("killed {side} event {event}"));
        reached
    }

    /// Kills a release again and again, some events further each time; returns how often.
    fn killed_often(&mut self, dice: &mut Dice) -> u32 {
        let mut kills = 0;
        let ran = self.release(|stage, kind, first| {
            let mut command = kind.command();
            loop {
                // Taken up, a release appends two events before it does anything.
                let ahead = dice.up_to(kind.stride()) + if kills > 0 { 2 } else { 0 };
                let ended = killed(stage, command, last_event(stage) + ahead.cast_signed(), dice.side());
                if ended.code != 137 {
                    let code = if command == kind.command() { kind.code() } else { kind.code_of_resume() };
                    ended.expect(code);
                    break;
                }
                kills += 1;
                if last_event(stage) > first {
                    if outcome(stage).is_some() {
                        break;
                    }
                    command = &["resume", "production"];
                }
            }
        });
        self.check(&ran, &format!("killed {kills} times"));
        kills
    }
}

fn killed(stage: &Stage, command: &[&str], event: i64, side: &str) -> Output {
    stage.piton_with_env(command, &[("PITON_CRASH_AT", &format!("{event}:{side}"))])
}

/// Carries a killed command on to its end.
fn carry_on(stage: &Stage, kind: Kind, first: i64) {
    if last_event(stage) == first {
        // It died before anything was on disk: it has not begun.
        stage.piton(kind.command()).expect(kind.code());
    } else if outcome(stage).is_none() {
        stage.piton(&["resume", "production"]).expect(kind.code_of_resume());
    }
}

/// The outcome of the latest release; `None` when it is not over.
fn outcome(stage: &Stage) -> Option<String> {
    let outcome = stage.status("production")["release"]["outcome"].as_str().unwrap().to_owned();
    (outcome != "under_way" && outcome != "stands").then_some(outcome)
}

/// The number of the journal's last event.
fn last_event(stage: &Stage) -> i64 {
    stage.events("production").last().unwrap()["seq"].as_i64().unwrap()
}

/// The world without what tells one release of the ground from another, or one second from the next.
fn end_of(stage: &Stage) -> World {
    let status = stage.status("production");
    let live = &status["live"];
    let release = live["release"].as_str().unwrap();
    let slot = live["slot"].as_str().unwrap();
    let other = if slot == "blue" { "green" } else { "blue" };
    let [_, blue, green] = stage.settings().production.ports;
    let proxy = match slot {
        "blue" => format!("blue :{blue} green :0, 0 of 10000 to green, hold false, maintenance false"),
        _ => format!("blue :0 green :{green}, 10000 of 10000 to green, hold false, maintenance false"),
    };
    let commit = live["commit"]["hash"].as_str().unwrap();
    let app = live["commit"]["subject"].as_str().unwrap();
    let replaced = status["release"]["release"].as_str().unwrap().to_lowercase();
    let kept = |fact: &str| {
        let is_old = fact.contains("/artifacts/") && !fact.contains(commit);
        !is_old
            && !fact.starts_with("file backups")
            && (!fact.starts_with("rows of") || fact.ends_with("migrations"))
    };
    let names = [
        (release, "LIVE"),
        (&release[release.len() - 10..], "LIVE"),
        (&replaced[replaced.len() - 10..], "CURRENT"),
        (commit, "COMMIT"),
        (slot, "SERVING"),
        (other, "IDLE"),
    ];
    let world = stage.world().only(kept).mapped(|name, fact| {
        let fact = match name {
            "production proxy" if fact == proxy => "all traffic to the one that serves".to_owned(),
            _ => fact.replace(&format!("{app} answers"), "APP answers"),
        };
        Some((name.to_owned(), fact))
    });
    names.iter().fold(world, |world, (from, to)| world.replaced(from, to))
}

/// A small generator of numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most + 1
    }

    fn side(&mut self) -> &'static str {
        if self.up_to(2) == 1 { "before" } else { "after" }
    }
}

fn sampled(kind: Kind) {
    let Some(mut ground) = Ground::new(kind) else { return };
    let seed = crate::common::seed();
    ground.calm();
    let kills = ground.killed_often(&mut Dice(seed));
    assert!(kills > 2, "PITON_SEED={seed}: killed {kills} times");
}

fn every_point(kind: Kind) {
    let Some(mut ground) = Ground::new(kind) else { return };
    let events = ground.calm();
    let mut points = 0;
    for event in 1..=events {
        for side in ["before", "after"] {
            points += u32::from(ground.killed_at(event, side));
        }
    }
    println!("killed at {points} points of {events} events: the same end each time");
    assert!(u64::from(points) >= 2 * events - 2, "{points} points of {events} events were reached");
}

#[test]
fn a_good_release_killed_often() {
    if has_its_turn(0, 6) {
        sampled(Kind::Good);
    }
}

#[test]
fn a_bad_release_killed_often() {
    if has_its_turn(1, 6) {
        sampled(Kind::Bad);
    }
}

#[test]
fn a_rollback_of_the_database_killed_often() {
    if has_its_turn(2, 6) {
        sampled(Kind::Back);
    }
}

#[test]
fn a_rollback_that_carries_writes_back_killed_often() {
    if has_its_turn(3, 6) {
        sampled(Kind::CarriedBack);
    }
}

#[test]
fn a_rollback_that_carries_noted_writes_back_killed_often() {
    if has_its_turn(4, 6) {
        sampled(Kind::NotedBack);
    }
}

#[test]
fn a_rollback_to_a_backup_killed_often() {
    if has_its_turn(5, 6) {
        sampled(Kind::Older);
    }
}

#[test]
#[ignore = "a campaign: scripts/campaign kill-points"]
fn every_point_of_a_rollback_that_carries_noted_writes_back() {
    every_point(Kind::NotedBack);
}

#[test]
#[ignore = "a campaign: scripts/campaign kill-points"]
fn every_point_of_a_rollback_to_a_backup() {
    every_point(Kind::Older);
}

#[test]
#[ignore = "a campaign: scripts/campaign kill-points"]
fn every_point_of_a_rollback_that_carries_writes_back() {
    every_point(Kind::CarriedBack);
}

#[test]
#[ignore = "a campaign: scripts/campaign kill-points"]
fn every_point_of_a_good_release() {
    every_point(Kind::Good);
}

#[test]
#[ignore = "a campaign: scripts/campaign kill-points"]
fn every_point_of_a_bad_release() {
    every_point(Kind::Bad);
}

#[test]
#[ignore = "a campaign: scripts/campaign kill-points"]
fn every_point_of_a_rollback_of_the_database() {
    every_point(Kind::Back);
}
