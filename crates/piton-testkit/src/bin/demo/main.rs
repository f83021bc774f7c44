//! The demo: a production under load takes a good release and sends a bad one back.
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

use crate::stage::Stage;
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

    stage.say("A bad release: it is ready, its checks pass, and it fails one request in twenty");
    stage.check_out("v3")?;
    stage.piton_expecting(0, &["deploy", "staging", "--ref", "v3"]).await?;
    stage.piton_expecting(WENT_BACK, &["deploy", "production", "--ref", "v3"]).await?;
    let bad = stage.release_of("production").await?;
    tell(&load);

    // What people get now is what the bad release has left behind.
    tokio::time::sleep(AFTERMATH).await;
    stage.say("What became of every request");
    let report = load.stop().await;
    let database = stage.production().await?;
    let mut lost = report.acknowledged.lost_in_table(&database, "TokenPurchase").await?;
    lost.extend(report.acknowledged.lost_in_api(stage.proxy).await?);
    let summary = Summary::new(&report, lost, [&good, &bad], stage.elapsed());
    stage.keep("load.json", &serde_json::to_string_pretty(&report)?)?;
    stage.keep("summary.json", &serde_json::to_string_pretty(&summary)?)?;
    println!("{summary}");
    Ok(summary)
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
