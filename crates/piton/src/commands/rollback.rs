use std::process::ExitCode;

use piton_core::journal::Request;
use piton_core::project::Project;

use super::{ask_to_go_back, carry_out, finish_going_back, order};
use crate::cli::Rollback;
use crate::error::Error;
use crate::ui;

/// Sends traffic back at once, then undoes the rest; with the database when asked. Or puts an older database in place.
pub(crate) async fn run(project: &Project, args: &Rollback) -> Result<ExitCode, Error> {
    if let Some(to) = &args.to {
        return order::rollback(project, args, to).await;
    }
    if args.database && !args.yes {
        return ask_about_the_database(project, args).await;
    }
    let request = Request::Rollback { database: args.database, undecided: false };
    ask_to_go_back(project, &args.target.environment, request, args.target.json).await
}

/// Sends everything back but the database, then asks about that with the count of what would leave in sight.
///
/// The traffic waits neither for the count, which reads every table, nor for the answer, nor for somebody to answer.
async fn ask_about_the_database(project: &Project, args: &Rollback) -> Result<ExitCode, Error> {
    let (environment, as_json) = (&args.target.environment, args.target.json);
    let request = Request::Rollback { database: false, undecided: true };
    let ended = carry_out(project, environment, request).await?;
    let asks = ended.as_ref().is_some_and(|(_, state)| state.waits_for_a_word());
    let answer = if asks && ui::can_ask() { ui::confirm("Put the database back?") } else { None };
    // Who cannot be asked has read what leaves and the commands that decide; the exit code says that it stands.
    let Some(database) = answer else {
        return finish_going_back(project, environment, ended, as_json);
    };
    let request = Request::Rollback { database, undecided: false };
    ask_to_go_back(project, environment, request, as_json).await
}
