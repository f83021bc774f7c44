use std::process::ExitCode;
use std::sync::Arc;

use piton_core::engine::Recorder;
use piton_core::fault::Fault;
use piton_core::project::{Project, journal_fault};

use super::{carry_on, interrupted, report, resume, watch};
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
///
/// That process takes the lease over from this one: nobody else gets in between.
async fn detach(
    project: &Project,
    recorder: Recorder<'_>,
    view: &View,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let plan = Arc::clone(&recorder.state().plan);
    let environment = &plan.environment;
    let settings = project.settings(environment)?;
    let (recorder, end) = project.guard(recorder, settings, interrupted()).await?;
    view.close();
    if let Some(end) = end {
        let state = recorder.state().clone();
        recorder.finish().map_err(journal_fault)?;
        return Ok(report(&end, &state, as_json));
    }
    let token = recorder.lease().token;
    let (pid, log) = match resume::detach(project, environment, Some(token)) {
        Ok(started) => started,
        Err(error) => {
            recorder.finish().map_err(journal_fault)?;
            return Err(error);
        }
    };
    if !recorder.hand_over(pid).await.map_err(journal_fault)? {
        return Err(Fault::surroundings("the process that was to run the release has ended")
            .because(format!("its output is in {}", log.display()))
            .hint(format!("piton resume {environment} carries the release on"))
            .into());
    }
    ui::talk(&format!("Release {} runs by itself. piton watch {environment} follows it.", plan.short_id()));
    watch::print_state(project, environment, as_json)
}
