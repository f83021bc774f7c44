//! The demo: a production under load takes a good release, sends a bad one back with its migration, and takes the mended one.
//!
//! `scripts/demo` builds what is needed and runs it as `demo PITON`, with the path of the `piton` program.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people to watch")]

mod stage;
mod summary;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use piton_testkit::load::{Load, Running};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::Client;

use crate::stage::{Release, Stage};
use crate::summary::Summary;

/// Purchases in production before the demo begins.
const PURCHASES: u32 = 100_000;
/// The exit code of a release that went back.
const WENT_BACK: i32 = 3;

/// How long the load goes on after the bad release went back.
const AFTERMATH: Duration = Duration::from_secs(3);

type Failed = Box<dyn Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        ended = demo() => ended,
        () = interrupted() => Err("interrupted".into()),
    };
    // Also after an interruption: proxies and apps outlive the releases that started them.
    stage::stop_everything().await;
    match ended {
        Ok(summary) if summary.is_as_promised() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  {error}");
                cause = error.source();
            }
            eprintln!("What was left of the demo is in {}", stage::folder().display());
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

async fn demo() -> Result<Summary, Failed> {
    let piton = std::env::args_os().nth(1).ok_or("usage: demo PITON")?;
    let stage = Stage::set(piton.into()).await?;

    stage.say("A first release, to staging and to production");
    stage.check_out("v1")?;
    stage.piton_expecting(0, &["deploy", "staging", "--ref", "v1"]).await?;
    stage.piton_expecting(0, &["deploy", "production", "--ref", "v1"]).await?;
    stage.say(&format!("Production gets {PURCHASES} purchases, and people who read and write"));
    stage.seed(PURCHASES).await?;
    let load = people(&stage).start()?;

    stage.say("A good release, with a migration that adds a table");
    stage.check_out("v2")?;
    stage.piton_expecting(0, &["deploy", "staging", "--ref", "v2"]).await?;
    stage.piton_expecting(0, &["deploy", "production", "--ref", "v2"]).await?;
    let good = stage.release_of("production").await?;
    tell(&load);

    stage.say("A bad release: its migration adds a table that it writes to, its checks pass, and it fails one request in twenty");
    stage.check_out("v3")?;
    stage.piton_expecting(0, &["deploy", "staging", "--ref", "v3"]).await?;
    stage.piton_expecting(WENT_BACK, &["deploy", "production", "--ref", "v3"]).await?;
    let bad = stage.release_of("production").await?;
    tell(&load);

    // What people get now is what the bad release has left behind.
    tokio::time::sleep(AFTERMATH).await;
    let left = Left::by(&stage, &bad).await?;

    stage.say(
        "The same release without its defect: what the bad one has written into the new table is there again",
    );
    stage.check_out("v4")?;
    stage.piton_expecting(0, &["deploy", "staging", "--ref", "v4"]).await?;
    stage.piton_expecting(0, &["deploy", "production", "--ref", "v4"]).await?;
    let mended = stage.release_of("production").await?;
    tell(&load);

    stage.say("What became of every request");
    let report = load.stop().await;
    let database = stage.production().await?;
    let mut lost = report.acknowledged.lost_in_table(&database, "TokenPurchase").await?;
    lost.extend(report.acknowledged.lost_in_api(stage.proxy).await?);
    let missing = left.missing_from(&database).await?;
    let summary = Summary::new(&report, lost, [&good, &bad, &mended], (&left, missing), stage.elapsed());
    stage.keep("load.json", &serde_json::to_string_pretty(&report)?)?;
    stage.keep("summary.json", &serde_json::to_string_pretty(&summary)?)?;
    println!("{summary}");
    Ok(summary)
}

/// What a release that went back has left in the database that was replaced.
struct Left {
    /// How many writes the database that is live went back with.
    carried_back: u64,
    /// The purchases of which the bad release noted a conversion, in a table that the structure before has not.
    conversions: Vec<String>,
}

impl Left {
    async fn by(stage: &Stage, bad: &Release) -> Result<Self, Failed> {
        let migrate = bad.steps.iter().find(|step| step.phase == "migrate");
        let outcome = migrate.map(|step| &step.undo_outcome).ok_or("the bad release has no migration")?;
        let replaced =
            outcome["replaced"].as_str().ok_or_else(|| format!("no database was replaced: {outcome}"))?;
        let replaced = stage.database(replaced).await?;
        Ok(Self {
            carried_back: outcome["carried_back"].as_u64().unwrap_or(0),
            conversions: conversions(&replaced).await?,
        })
    }

    /// Counts those that a database has not.
    async fn missing_from(&self, database: &Client) -> Result<usize, Failed> {
        let there = conversions(database).await?;
        Ok(self.conversions.iter().filter(|purchase| !there.contains(purchase)).count())
    }
}

async fn conversions(database: &Client) -> Result<Vec<String>, Failed> {
    let rows = database.query(r#"select "purchaseId" from "Conversion""#, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Those who use production: most keep the proxy's cookie, and so their slot.
fn people(stage: &Stage) -> Load {
    let mut load = Load::new(
        stage.proxy,
        "/api/purchases",
        |id| json!({ "id": id, "totalTokens": 55.5, "totalPayment": 194.25, "meterReading": 1200, "createdBy": "user-7" }),
    );
    load.rate = 200;
    load.clients = 200;
    load.without_cookies = 40;
    load.reads.extend(["/".to_owned(), "/api/purchases/seed-1".to_owned()]);
    load
}

fn tell(load: &Running) {
    let now = load.snapshot();
    println!(
        "    load: {} requests in {} s, {} failed, {} writes acknowledged",
        now.requests,
        now.elapsed.as_secs(),
        now.failed,
        now.acknowledged_writes
    );
}
