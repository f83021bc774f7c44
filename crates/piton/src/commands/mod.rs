//! One file a command; each lists its steps in one function.

mod abort;
mod backups;
mod config;
mod deploy;
mod hold;
mod init;
mod log;
mod migration;
mod order;
mod plan;
mod proxy;
mod resume;
mod rollback;
mod schema;
mod status;
mod watch;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use piton_core::engine::End;
use piton_core::fault::Fault;
use piton_core::journal::{Outcome, State};
use piton_core::project::Project;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command};
use crate::error::{self, Error};
use crate::view::{self, View};
use crate::{json, ui};

/// Runs one command and returns the exit code.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Error> {
    let dir = cli.dir;
    match cli.command {
        Command::Init => block_on(init::run(&dir)),
        Command::Schema => schema::run(),
        Command::Proxy(args) => proxy::run(args),
        Command::Config(args) => config::run(&open(&dir)?, &args),
        Command::Plan(args) => block_on(plan::run(&open(&dir)?, &args)),
        Command::Deploy(args) => block_on(deploy::run(&open(&dir)?, &args)),
        Command::Watch(args) => block_on(watch::run(&open(&dir)?, &args)),
        Command::Status(args) => block_on(status::run(&open(&dir)?, &args)),
        Command::Log(args) => log::run(&open(&dir)?, &args),
        Command::Resume(args) => block_on(resume::run(&open(&dir)?, &args)),
        Command::Abort(args) => block_on(abort::run(&open(&dir)?, &args)),
        Command::Hold(args) => block_on(hold::hold(&open(&dir)?, &args)),
        Command::Continue(args) => block_on(hold::go_on(&open(&dir)?, &args)),
        Command::Migration(args) => block_on(migration::run(&open(&dir)?, &args)),
        Command::Backup(args) => block_on(order::backup(&open(&dir)?, &args)),
        Command::Backups(args) => block_on(backups::run(&open(&dir)?, &args)),
        Command::Prove(args) => block_on(order::prove(&open(&dir)?, &args)),
        Command::Restore(args) => block_on(order::restore(&open(&dir)?, &args)),
        Command::Clone(args) => block_on(order::clone(&open(&dir)?, &args)),
        Command::Rollback(args) => block_on(rollback::run(&open(&dir)?, &args)),
    }
}

fn open(dir: &Path) -> Result<Project, Error> {
    Ok(Project::open(dir, own_program()?)?)
}

/// Returns the path of this program; after an upgrade of the running one, that of the program that took its place.
fn own_program() -> Result<PathBuf, Fault> {
    let piton = std::env::current_exe()
        .map_err(|error| Fault::surroundings("piton cannot find its own program").caused_by(&error))?;
    // Linux adds this to the path of a running program whose file was replaced.
    let replaced = piton.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.filter(|path| path.is_file()).unwrap_or(piton))
}

/// One thread drives a release: its steps come one after the other, and children die with it when it is killed.
fn block_on(command: impl Future<Output = Result<ExitCode, Error>>) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::surroundings("the runtime cannot be started").caused_by(&error))?;
    let ended = runtime.block_on(command);
    // What still reads files there, for a step that was left, is not waited for.
    runtime.shutdown_background();
    ended
}

/// Runs a release of this process to its end or its next stand, and reports it.
async fn carry_on(
    project: &Project,
    recorder: piton_core::engine::Recorder<'_>,
    view: &View,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let (end, state) = run_on(project, recorder, view).await?;
    Ok(report(project, &end, &state, as_json))
}

/// Runs a release of this process to its end or its next stand.
async fn run_on(
    project: &Project,
    recorder: piton_core::engine::Recorder<'_>,
    view: &View,
) -> Result<(End, State), Error> {
    let settings = project.settings(&recorder.state().plan.environment)?;
    let ran = project.carry_on(recorder, settings, interrupted()).await?;
    view.close();
    Ok(ran)
}

/// Resolves at Ctrl-C or SIGTERM: the release is then left where it stands. A second one ends the process at once, as a
/// kill would.
async fn interrupted() {
    let (first, interrupted) = tokio::sync::oneshot::channel();
    // On a thread of its own: the one that drives the release may be busy with files, or wait for the journal.
    let listening = std::thread::Builder::new().name("signals".into()).spawn(move || listen(first));
    if listening.is_err() || interrupted.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Hands on the first signal to end, and obeys the second, or one that nobody waits for any more.
fn listen(first: tokio::sync::oneshot::Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    runtime.block_on(async {
        let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        let mut first = Some(first);
        loop {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            if first.take().is_none_or(|first| first.send(()).is_err()) {
                std::process::exit(error::LEFT.into());
            }
        }
    });
}

/// Says how the release ended or stands, and returns the exit code for it.
fn report(project: &Project, end: &End, state: &State, as_json: bool) -> ExitCode {
    let environment = &state.plan.environment;
    let code = match end {
        End::Over(Outcome::Succeeded) => 0,
        End::Over(Outcome::RolledBack) => error::WENT_BACK,
        End::Over(Outcome::Refused) => error::REFUSED,
        End::Stopped(_) => error::STANDS,
        End::Left => error::LEFT,
    };
    ui::talk("");
    let name = view::run_words(state);
    match end {
        End::Over(_) => ui::talk(&view::end_words(project, state)),
        End::Stopped(_) if state.waits_for_a_word() => {
            ui::talk(&format!("{name} has gone back but for the database, which waits for a word."));
        }
        End::Stopped(_) if state.back.is_some() => {
            ui::talk(&format!("{name} stands on its way back. piton resume {environment} carries that on."));
        }
        End::Stopped(_) => ui::talk(&format!(
            "{name} stands. piton resume {environment} carries it on; piton abort {environment} undoes it."
        )),
        End::Left => ui::talk(&format!(
            "{name} was left where it stands. piton resume {environment} carries it on; piton abort {environment} undoes it."
        )),
    }
    // A step that stands at a fault says itself where the traffic is.
    let unwatched = matches!(end, End::Left) || (matches!(end, End::Stopped(_)) && state.back.is_some());
    if let (true, Some(words)) = (unwatched, view::unjudged_words(state)) {
        ui::talk(&words);
    }
    if as_json {
        ui::data(&json::pretty(&json::release(state, None)));
    }
    ExitCode::from(code)
}

/// Runs a request to go back and reports it: to have gone back is a success, to have settled meanwhile is none.
async fn ask_to_go_back(
    project: &Project,
    environment: &str,
    request: piton_core::journal::Request,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let ended = carry_out(project, environment, request).await?;
    finish_going_back(project, environment, ended, as_json)
}

/// Runs a request: a living process takes it up and is followed, otherwise this process carries the release on with it.
///
/// Nothing is reported yet; `None` when the release goes on elsewhere and is watched no longer.
async fn carry_out(
    project: &Project,
    environment: &str,
    request: piton_core::journal::Request,
) -> Result<Option<(End, State)>, Error> {
    let shown = watch::last_event(project, environment)?;
    let (_, held) = project.ask(environment, request).await?;
    if held {
        return watch::follow(project, environment, shown).await;
    }
    let view = View::new();
    let recorder = project.take_up(environment, &view)?;
    Ok(Some(run_on(project, recorder, &view).await?))
}

/// Reports where a release that was run or followed ended or stands.
fn finish(
    project: &Project,
    environment: &str,
    ended: Option<(End, State)>,
    as_json: bool,
) -> Result<ExitCode, Error> {
    match ended {
        Some((end, state)) => Ok(report(project, &end, &state, as_json)),
        None => {
            watch::print_state(project, environment, as_json)?;
            Ok(ExitCode::from(error::LEFT))
        }
    }
}

/// Reports as [`finish`] does; see [`ask_to_go_back`].
fn finish_going_back(
    project: &Project,
    environment: &str,
    ended: Option<(End, State)>,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let outcome = ended.as_ref().and_then(|(_, state)| state.ended);
    let code = finish(project, environment, ended, as_json)?;
    Ok(match outcome {
        Some((Outcome::RolledBack, _)) => ExitCode::SUCCESS,
        Some((Outcome::Succeeded, _)) => {
            ui::talk("The release had settled before the request was taken up: nothing went back.");
            ExitCode::from(error::FAILED)
        }
        _ => code,
    })
}
