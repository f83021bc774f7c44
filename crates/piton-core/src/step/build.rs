use std::path::{Path, PathBuf};

use jiff::Timestamp;
use piton_exec::Command;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Act, Ctx, Observed, Words, to_value};
use crate::config::{CommandLine, Settings};
use crate::dirs::Dirs;
use crate::fault::{Fault, OrFault};
use crate::files;

/// Checks the commit out into a folder of its own and builds it there, once for all environments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// The full hash.
    pub commit: String,
    /// The artifact's folder.
    pub folder: PathBuf,
    /// The app's folder within it.
    pub app: PathBuf,
    /// The configured commands.
    pub run: Vec<CommandLine>,
}

/// What a finished build leaves beside its folder; a folder without it is half-built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Artifact {
    /// The commit.
    pub commit: String,
    /// BLAKE3 over every file's path, kind and content.
    pub digest: String,
    /// When it was built.
    pub built: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    artifact: Artifact,
    /// False when an earlier release had built it.
    built_here: bool,
}

impl Build {
    fn record(&self) -> PathBuf {
        record_of(&self.folder)
    }

    fn checkout(&self, root: &Path) -> Command {
        let folder = self.folder.display().to_string();
        git(root).args(["worktree", "add", "--force", "--detach", &folder, &self.commit])
    }

    fn commands(&self) -> impl Iterator<Item = Command> {
        self.run.iter().map(|line| line.command().cwd(&self.app))
    }

    /// Removes what is there of the artifact.
    async fn remove(&self, ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
        files::remove_file(&self.record()).or_fault(|| "the artifact's record cannot be removed".into())?;
        files::remove_folder(&self.folder).or_fault(|| "the artifact cannot be removed".into())?;
        // Git keeps a note of each checkout; without this the same folder cannot be made again.
        ctx.run(git(&ctx.settings().root).args(["worktree", "prune"])).await?;
        Ok(())
    }
}

impl Act for Build {
    fn words(&self, settings: &Settings, _dirs: &Dirs) -> Words {
        let short = self.commit.get(..7).unwrap_or(&self.commit);
        let does = match self.run.len() {
            0 => format!("check out {short}, nothing to build"),
            count => {
                format!("check out {short}, {count} {}", if count == 1 { "command" } else { "commands" })
            }
        };
        Words::new(does, "remove the folder, if it was built here")
            .with([self.checkout(&settings.root)])
            .with(self.commands())
    }

    async fn observe(&self, _ctx: &Ctx<'_, '_>) -> Result<Observed, Fault> {
        // `act` finds out by itself whether a whole artifact is there, and whose it is.
        Ok(Observed::NotDone)
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let _lock = files::lock(&self.folder.with_extension("lock"))
            .or_fault(|| format!("another release builds {} just now", self.commit))?;
        if let Some(artifact) = files::read_json::<Artifact>(&self.record())
            .or_fault(|| "the artifact's record cannot be read".into())?
        {
            let now = digest(&self.folder).await?;
            if now != artifact.digest {
                return Err(Fault::release(format!(
                    "the build of {} was changed after it was made",
                    self.commit
                ))
                .because(format!("{} no longer has the recorded digest", self.folder.display()))
                .hint(format!(
                    "rm -r {} {} makes the next release build it anew",
                    self.folder.display(),
                    self.record().display()
                )));
            }
            let built_here = ctx.noted().is_some();
            return Ok(to_value(&Outcome { artifact, built_here }));
        }
        // Noted before the first file, so that a killed build is known to be this release's own.
        ctx.note(&"builds")?;
        self.remove(ctx).await?;
        ctx.run(self.checkout(&ctx.settings().root)).await?;
        for command in self.commands() {
            ctx.run(command).await?;
        }
        let artifact = Artifact {
            commit: self.commit.clone(),
            digest: digest(&self.folder).await?,
            built: Timestamp::now(),
        };
        files::write_json(&self.record(), &artifact).or_fault(|| "the artifact cannot be recorded".into())?;
        Ok(to_value(&Outcome { artifact, built_here: true }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        if ctx.noted().is_some() {
            self.remove(ctx).await?;
        }
        Ok(Value::Null)
    }
}

/// Returns where an artifact's record lies.
pub(crate) fn record_of(folder: &Path) -> PathBuf {
    folder.with_extension("json")
}

fn git(root: &Path) -> Command {
    Command::new("git").args(["-C", &root.display().to_string()])
}

async fn digest(folder: &Path) -> Result<String, Fault> {
    let folder = folder.to_owned();
    let digest = tokio::task::spawn_blocking(move || files::digest(&folder)).await;
    match digest {
        Ok(digest) => digest.or_fault(|| "the artifact cannot be read".into()),
        Err(error) => Err(Fault::surroundings("the artifact cannot be read").caused_by(&error)),
    }
}
