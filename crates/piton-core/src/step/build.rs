use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use piton_exec::Command;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Act, Ctx, Site, Words, to_value};
use crate::config::CommandLine;
use crate::fault::{Fault, Kind, OrFault};
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
        // Forced twice: a checkout that was killed leaves git's own note of it locked.
        git(root).args(["worktree", "add", "--force", "--force", "--detach", &folder, &self.commit])
    }

    fn commands(&self) -> impl Iterator<Item = Command> {
        self.run.iter().map(|line| line.command().cwd(&self.app))
    }

    /// Looks whether the build made what starts the app: that shall not come out when all else is done.
    fn starts(&self, ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
        let starts = ctx.plan.start().map(|start| &start.command.program);
        let Some(program) = starts.filter(|program| program.contains('/') && !program.starts_with('/'))
        else {
            return Ok(());
        };
        if self.app.join(program).exists() {
            return Ok(());
        }
        Err(Fault::release(format!("there is no {program} after the build"))
            .because("run.command in piton.toml starts the app with it")
            .hint("name in run.command what starts the app, or commit what builds it"))
    }

    /// Removes what a killed build left; a whole artifact has a record and is never removed here.
    async fn remove_unfinished(&self, ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
        if !self.folder.exists() {
            return Ok(());
        }
        let forget = forget(&ctx.settings().root, &self.folder);
        // Git refuses what it does not know as a checkout; the folder goes all the same, and the next checkout is forced.
        let _ = ctx.run(forget).await;
        files::remove_folder_in_background(&self.folder)
            .await
            .or_fault(|| "the unfinished artifact cannot be removed".into())
    }
}

impl Act for Build {
    fn words(&self, site: &Site<'_>) -> Words {
        let short = self.commit.get(..7).unwrap_or(&self.commit);
        let does = match self.run.len() {
            0 => format!("check out {short}, nothing to build"),
            count => {
                format!("check out {short}, {count} {}", if count == 1 { "command" } else { "commands" })
            }
        };
        Words::new(does, "an unfinished build is removed, a whole one is kept for the next release")
            .with([self.checkout(&site.settings.root)])
            .with(self.commands())
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let _lock = files::lock(&self.folder.with_extension("lock"))
            .or_fault(|| format!("another release builds {} just now", self.commit))?;
        let recorded = files::read_json::<Artifact>(&self.record())
            .or_fault(|| "the artifact's record cannot be read".into())?;
        // One whose folder was removed by hand is built anew.
        if let Some(artifact) = recorded.filter(|_| self.folder.exists()) {
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
            self.starts(ctx)?;
            return Ok(to_value(&Outcome { artifact, built_here: false }));
        }
        // A record without its folder would make the half of a killed build look like a whole one that was changed.
        files::remove_file(&self.record()).or_fault(|| "the artifact's record cannot be removed".into())?;
        self.remove_unfinished(ctx).await?;
        ctx.run(self.checkout(&ctx.settings().root)).await?;
        for command in self.commands() {
            ctx.run(command).await?;
        }
        let artifact = Artifact {
            commit: self.commit.clone(),
            digest: digest(&self.folder).await?,
            built: Timestamp::now(),
        };
        // Before the record: a build without the app is nothing that the next release could take.
        self.starts(ctx)?;
        files::write_json(&self.record(), &artifact).or_fault(|| "the artifact cannot be recorded".into())?;
        Ok(to_value(&Outcome { artifact, built_here: true }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        if files::read_json::<Artifact>(&self.record()).is_ok_and(|found| found.is_some()) {
            return Ok(Value::Null);
        }
        let _lock = files::lock(&self.folder.with_extension("lock"))
            .or_fault(|| format!("another release builds {} just now", self.commit))?;
        self.remove_unfinished(ctx).await?;
        Ok(Value::Null)
    }
}

/// Returns where an artifact's record lies.
pub(crate) fn record_of(folder: &Path) -> PathBuf {
    folder.with_extension("json")
}

/// Tells whether an artifact is as it was built.
pub(super) async fn is_whole(folder: &Path) -> bool {
    let Ok(Some(artifact)) = files::read_json::<Artifact>(&record_of(folder)) else { return false };
    digest(folder).await.is_ok_and(|now| now == artifact.digest)
}

/// Builds the command that removes a checkout together with git's entry for it.
pub(super) fn forget(root: &Path, folder: &Path) -> Command {
    git(root).args(["worktree", "remove", "--force", "--force", &folder.display().to_string()])
}

/// Returns what marks a build whose removal has begun; its record is gone then, so that nobody takes it for a whole one.
fn going_of(folder: &Path) -> PathBuf {
    folder.with_extension("going")
}

/// Lists the commits of which a folder holds a whole build, or one whose removal was cut off.
pub(super) fn whole(builds: &Path) -> Result<BTreeSet<String>, Fault> {
    let entries = match fs_err::read_dir(builds) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(Fault::surroundings("the builds cannot be listed").caused_by(&error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let commit = |name: String| {
        let commit = name.strip_suffix(".json").or_else(|| name.strip_suffix(".going"))?;
        // Whatever else somebody has laid there is not ours.
        let folder = builds.join(commit);
        let recorded = [record_of(&folder), going_of(&folder)].into_iter().any(|file| {
            files::read_json::<Artifact>(&file)
                .is_ok_and(|found| found.is_some_and(|found| found.commit == commit))
        });
        recorded.then(|| commit.to_owned())
    };
    Ok(names.filter_map(commit).collect())
}

/// Removes a whole build that no release is or was made from lately; returns whether it did.
pub(super) async fn remove_unused(ctx: &Ctx<'_, '_>, folder: &Path, commit: &str) -> Result<bool, Fault> {
    // Whoever holds it looks at this build or makes it anew.
    let Ok(_lock) = files::lock(&folder.with_extension("lock")) else { return Ok(false) };
    let (record, going) = (record_of(folder), going_of(folder));
    // Looked up under the lock: a release that begins from here on finds no record, and builds anew.
    if ctx.commits_in_use()?.contains(commit) {
        return Ok(false);
    }
    if record.exists() {
        fs_err::rename(&record, &going).or_fault(|| "the record of an old build cannot be moved".into())?;
    }
    if let Err(fault) = ctx.run(forget(&ctx.settings().root, folder)).await
        && fault.kind != Kind::Release
    {
        return Err(fault);
    }
    // Git refuses what it does not know as a checkout; the folder goes all the same.
    files::remove_folder_in_background(folder).await.or_fault(|| "an old build cannot be removed".into())?;
    files::remove_file(&going).or_fault(|| "the record of an old build cannot be removed".into())?;
    Ok(true)
}

fn git(root: &Path) -> Command {
    Command::new("git").args(["-C", &root.display().to_string()])
}

async fn digest(folder: &Path) -> Result<String, Fault> {
    let folder = folder.to_owned();
    files::read_in_background(move || files::digest(&folder))
        .await
        .or_fault(|| "the artifact cannot be read".into())
}
