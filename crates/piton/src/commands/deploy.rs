use std::process::ExitCode;

use piton_core::engine::Recorder;
use piton_core::project::{Project, journal_fault};

use super::{carry_on, interrupted, report, resume};
use crate::cli::Deploy;
use crate::error::Error;
use crate::ui;
use crate::view::View;

/// Releases a commit to an environment, in this process or in one of its own.
pub(crate) async fn run(project: &Project, args: &Deploy) -> Result<ExitCode, Error> {
    let environment = &args.target.environment;
    let settings = project.settings(environment)?;
    let view = View::new();
    let recorder = project.begin(&settings, &args.reference, args.stay, &view).await?;
    if args.detach {
        return detach(project, recorder, &view, args.target.json).await;
    }
    if ui::is_watched() {
        ui::talk(&format!(
            "Ctrl-C leaves the release where it stands: piton resume {environment} carries it on.\n"
        ));
    }
    carry_on(project, recorder, &view, args.target.json).await
}

/// Runs the guards here, so that their refusal is this command's, and lets the rest run in a process of its own.
async fn detach(
    project: &Project,
    recorder: Recorder<'_>,
    view: &View,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let settings = project.settings(&recorder.state().plan.environment)?;
    let (recorder, end) = project.guard(recorder, settings, interrupted()).await?;
    view.close();
    if let Some(end) = end {
        let state = recorder.state().clone();
        recorder.finish().map_err(journal_fault)?;
        return Ok(report(project, &end, &state, as_json));
    }
    resume::hand_over(project, recorder, as_json).await
}
