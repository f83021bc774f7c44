use std::process::ExitCode;

use piton_core::engine::Unwatched;
use piton_core::project::Project;

use super::{carry_on, resume, watch};
use crate::cli::Deploy;
use crate::error::Error;
use crate::ui;
use crate::view::View;

/// Releases a commit to an environment, in this process or in one of its own.
pub(crate) async fn run(project: &Project, args: &Deploy) -> Result<ExitCode, Error> {
    let environment = &args.target.environment;
    let settings = project.settings(environment)?;
    if args.detach {
        let recorder = project.begin(&settings, &args.reference, args.stay, &Unwatched).await?;
        let id = recorder.state().plan.short_id().to_owned();
        project.give_back(recorder)?;
        resume::detach(project, environment)?;
        ui::talk(&format!("Release {id} runs by itself. piton watch {environment} follows it."));
        return watch::print_state(project, environment, args.target.json);
    }
    let view = View::new();
    let recorder = project.begin(&settings, &args.reference, args.stay, &view).await?;
    if ui::is_watched() {
        ui::talk(&format!(
            "Ctrl-C leaves the release where it stands: piton resume {environment} carries it on.\n"
        ));
    }
    carry_on(project, recorder, &view, args.target.json).await
}
