use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use piton_exec::local::Inherit;
use piton_exec::{Command, ExecError, local, marker};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Observed, Site, Words, World, disk};
use crate::config::{CommandLine, Ready, Settings, format_duration};
use crate::dirs::Dirs;
use crate::fault::{Fault, Kind, OrFault};
use crate::journal::boot_id;
use crate::ports::{self, Listener, Owner};
use crate::{files, http};
use piton_proxy::Slot;

/// The variable that every process of a slot carries; its value is the release.
pub(crate) const SLOT_MARK: &str = "PITON_RELEASE";
/// How many good answers in a row make an app ready.
const IN_A_ROW: u32 = 2;
/// Copies the artifact into the slot's folder, starts the app there and waits until it is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartSlot {
    /// The release, which marks the slot's processes.
    pub release: String,
    /// The slot.
    pub slot: Slot,
    /// Its port.
    pub port: u16,
    /// The artifact's folder.
    pub artifact: PathBuf,
    /// The slot's folder.
    pub folder: PathBuf,
    /// The app's folder within it.
    pub app: PathBuf,
    /// The configured command.
    pub command: CommandLine,
    /// When the app is ready.
    pub ready: Ready,
    /// How long it may take to stop.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub stop_within: Duration,
}

impl StartSlot {
    fn copy(&self) -> Command {
        // The trailing `/.` copies what is in the folder, not the folder itself.
        let from = format!("{}/.", self.artifact.display());
        Command::new("cp").args(["-a", "--reflink=auto", &from, &self.folder.display().to_string()])
    }

    fn start(&self) -> Command {
        self.command.command().cwd(&self.app).env("PORT", self.port.to_string())
    }

    async fn stop(&self) -> Result<usize, Fault> {
        stop(&self.release, &self.folder, self.stop_within).await
    }

    /// Starts the app from the slot's folder, without waiting for it.
    ///
    /// Returns its process.
    fn launch(&self, settings: &Settings, dirs: &Dirs) -> Result<u32, Fault> {
        let mut command = self.start().env(SLOT_MARK, &self.release);
        command.program = self.program();
        for (name, value) in &settings.vars {
            if name != "PORT" {
                command = command.secret_env(name, value.clone());
            }
        }
        let log = dirs.logs(&self.release).join("app.log");
        let pid =
            local::spawn_detached(&command, Inherit::Only(&super::INHERITED), &log).map_err(|error| {
                let what = format!("the app cannot be started by `{}`", self.command);
                let full =
                    matches!(&error, ExecError::Io { source, .. } if source.kind() == ErrorKind::StorageFull);
                let fault = if full { Fault::surroundings(what) } else { Fault::release(what) };
                fault.caused_by(&error).hint("check run.command in piton.toml; it runs in the release folder")
            })?;
        let Some(leader) = Leader::of(pid) else { return Ok(pid) };
        files::write_json(&Leader::file(&self.folder), &leader)
            .or_fault(|| "the app's process cannot be recorded".into())?;
        Ok(pid)
    }

    /// A program named by a relative path is meant from the release folder, where the app lies.
    fn program(&self) -> String {
        let program = &self.command.program;
        if program.contains('/') && !program.starts_with('/') {
            return self.app.join(program).display().to_string();
        }
        program.clone()
    }

    /// Starts the app and waits until it is ready, within the configured time.
    async fn launch_and_wait(&self, world: &World, say: impl Fn(&str)) -> Result<Duration, Fault> {
        self.launch(&world.settings, &world.dirs)?;
        self.wait_until_ready(world, say).await
    }

    /// Waits for good answers of the app itself: whoever else took the port, before the app did, answers for nothing.
    async fn wait_until_ready(&self, world: &World, say: impl Fn(&str)) -> Result<Duration, Fault> {
        let start = Instant::now();
        let mut good = 0;
        let mut last = String::from("it has not answered yet");
        let mut redirected = false;
        while start.elapsed() < self.ready.within {
            let answer = http::get(self.port, &self.ready.get, Duration::from_secs(2)).await;
            redirected = matches!(&answer, Ok(answer) if answer.location.is_some());
            match answer {
                Ok(answer) if answer.status == 200 => match self.listener() {
                    Listener::Own => {
                        good += 1;
                        if good == IN_A_ROW {
                            return Ok(start.elapsed());
                        }
                    }
                    Listener::Stranger(owner) => {
                        good = 0;
                        last = format!("not the app but {} answers", name(owner.as_ref()));
                    }
                    Listener::Nobody => good = 0,
                },
                Ok(answer) => {
                    good = 0;
                    last = match &answer.location {
                        Some(location) => format!("it answers {} and points to {location}", answer.status),
                        None => format!("it answers {}", answer.status),
                    };
                }
                Err(error) => {
                    good = 0;
                    last = error.to_string();
                }
            }
            if good == 0 && !self.is_running() {
                // Its number may come to another process while the release stands.
                files::remove_file(&Leader::file(&self.folder))
                    .or_fault(|| "the app's record cannot be removed".into())?;
                return Err(self.not_ready(world, "the app ended before it was ready"));
            }
            say(&format!("GET {}: {last}", self.ready.get));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let what = format!("the app was not ready within {}", format_duration(self.ready.within));
        let seen = format!("GET {} on port {}: {last}; ready is 200", self.ready.get, self.port);
        let mut fault = self.not_ready(world, &what);
        fault.why.insert(0, seen);
        if redirected {
            fault = fault.hint("set run.ready.get in piton.toml to a path that answers 200 itself");
        }
        Err(fault)
    }

    fn not_ready(&self, world: &World, what: &str) -> Fault {
        let log = world.dirs.logs(&self.release).join("app.log");
        let mut fault = Fault::release(what);
        if let Listener::Stranger(owner) = self.listener() {
            fault = fault.because(format!("{} listens on port {}", name(owner.as_ref()), self.port));
        }
        // The log is a help; the fault stands without it.
        let said = fs_err::read_to_string(&log).unwrap_or_default();
        let said = super::without(&super::secret_values(&world.settings), &said);
        let said = super::last_lines(&said, 5);
        if let Some(full) = disk::full(&said.join("\n"), [Some(self.folder.as_path())]) {
            fault.kind = Kind::Surroundings;
            fault.why.extend(said);
            return fault
                .because("the disk is full")
                .hint(disk::mend(&full, &format!("piton resume {}", world.settings.environment)));
        }
        fault.why.extend(said);
        fault.hint(format!("the app's output is in {}", log.display()))
    }

    fn is_running(&self) -> bool {
        !processes(&self.release, &self.folder).is_empty()
    }

    /// Returns who takes connections on the slot's port: the app, through whichever of its processes, or another program.
    fn listener(&self) -> Listener {
        ports::listener(self.port, self.processes())
    }

    /// Returns the numbers of the app's processes, oldest first.
    pub(crate) fn processes(&self) -> Vec<i32> {
        processes(&self.release, &self.folder).iter().map(|process| process.pid).collect()
    }

    /// Tells whether the app takes connections on the slot's port.
    pub fn listens(&self) -> bool {
        matches!(self.listener(), Listener::Own)
    }

    /// Names the slot and its port.
    pub(crate) fn place(&self) -> String {
        format!("{} on :{}", self.slot, self.port)
    }

    /// Ends what is left of the app and starts it anew.
    ///
    /// Where that fails and the slot's folder is not what was copied into it, the artifact is copied over it first. What
    /// the app itself has written there stays.
    pub(crate) async fn start_again(&self, world: &World, say: impl Fn(&str)) -> Result<Duration, Fault> {
        self.stop().await?;
        let fault = match self.launch_and_wait(world, &say).await {
            Err(fault) if self.is_damaged().await => fault,
            launched => return launched,
        };
        self.stop().await?;
        if !super::build::is_whole(&self.artifact).await {
            let artifact = self.artifact.display();
            return Err(
                fault.because(format!("files of its folder changed, and {artifact} is not whole either"))
            );
        }
        say("its folder is copied anew");
        fs_err::create_dir_all(&self.folder).or_fault(|| "the slot's folder cannot be made".into())?;
        local::run(&self.copy()).await.or_fault(|| "the slot's folder cannot be copied anew".into())?;
        self.launch_and_wait(world, say).await
    }

    /// Tells whether a file of the artifact is missing in the slot's folder, or was changed there.
    async fn is_damaged(&self) -> bool {
        let (artifact, folder) = (self.artifact.clone(), self.folder.clone());
        let same = files::read_in_background(move || files::holds_all_of(&folder, &artifact)).await;
        // What cannot be read cannot be copied either.
        same.is_ok_and(|same| !same)
    }
}

/// The process that leads a slot's session: the second way to find the app's processes, besides their mark.
#[derive(Serialize, Deserialize)]
struct Leader {
    pid: i32,
    started: u64,
    boot: String,
}

impl Leader {
    fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        // A program that has ended already leads nothing.
        Some(Self { pid, started: marker::start_of(pid)?, boot: boot_id() })
    }

    fn file(folder: &Path) -> PathBuf {
        folder.with_extension("json")
    }
}

/// Names who listens on a port, to complete `... answers`.
fn name(owner: Option<&Owner>) -> String {
    match owner {
        Some(owner) => format!("process {} ({})", owner.pid, owner.command),
        None => "a process of another user".into(),
    }
}

/// Lists the living processes of a release's app.
fn processes(release: &str, folder: &Path) -> Vec<marker::Marked> {
    let mut found = marker::find(SLOT_MARK, release);
    if let Ok(Some(leader)) = files::read_json::<Leader>(&Leader::file(folder))
        && leader.boot == boot_id()
    {
        found.extend(marker::in_session(leader.pid, leader.started));
    }
    found.sort_by_key(|process| (process.started, process.pid));
    found.dedup();
    found
}

/// Ends a release's app and removes its folder's record; returns how many processes it had.
pub(super) async fn stop(release: &str, folder: &Path, grace: Duration) -> Result<usize, Fault> {
    let stopped = marker::stop_all(|| processes(release, folder), grace).await;
    if let Some(left) = processes(release, folder).first() {
        return Err(Fault::surroundings(format!("process {} does not end", left.pid))
            .because("it was sent SIGTERM and SIGKILL")
            .hint(format!("cat /proc/{}/stack tells what it waits for", left.pid)));
    }
    files::remove_file(&Leader::file(folder)).or_fault(|| "the app's record cannot be removed".into())?;
    Ok(stopped)
}

impl Act for StartSlot {
    fn words(&self, _site: &Site<'_>) -> Words {
        let within = format_duration(self.ready.within);
        Words::new(
            format!("{} on :{}, ready within {within}", self.slot, self.port),
            format!("stop {}", self.slot),
        )
        .with([self.copy(), self.start()])
    }

    async fn observe(&self, ctx: &Ctx<'_, '_>) -> Result<Observed, Fault> {
        if !self.is_running() {
            return Ok(Observed::NotDone);
        }
        // It was started before the kill: it is done when it is, or becomes, ready.
        match self.wait_until_ready(ctx.world, |text| ctx.say(text)).await {
            Ok(took) => Ok(Observed::Done(json!({ "ready_ms": millis(took) }))),
            Err(_) => Ok(Observed::NotDone),
        }
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        self.stop().await?;
        files::remove_folder(&self.folder).or_fault(|| "the slot's folder cannot be emptied".into())?;
        fs_err::create_dir_all(&self.folder).or_fault(|| "the slot's folder cannot be made".into())?;
        ctx.run(self.copy()).await?;
        let pid = self.launch(ctx.settings(), &ctx.world.dirs)?;
        ctx.launched(&self.start(), pid)?;
        let took = self.wait_until_ready(ctx.world, |text| ctx.say(text)).await?;
        Ok(json!({ "ready_ms": millis(took) }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let stopped = self.stop().await?;
        files::remove_folder_in_background(&self.folder)
            .await
            .or_fault(|| "the slot's folder cannot be removed".into())?;
        Ok(json!({ "stopped": stopped }))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
