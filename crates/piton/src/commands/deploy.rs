use std::process::ExitCode;

use piton_core::project::Project;

use super::{carry_on, resume};
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
        return resume::by_itself(project, recorder, &view, args.target.json).await;
    }
    if ui::is_watched() {
        ui::talk(&format!(
            "Ctrl-C leaves the release where it stands: piton resume {environment} carries it on.\n"
        ));
    }
    carry_on(project, recorder, &view, args.target.json).await
}
