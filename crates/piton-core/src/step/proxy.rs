use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use piton_exec::local::Inherit;
use piton_exec::{Command, local, marker};
use piton_proxy::control::{Client, ControlError};
use piton_proxy::{Slot, Weights};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Site, Words, World};
use crate::fault::{Fault, OrFault};

/// The variable that a proxy's process carries; its value is the proxy's folder.
pub(crate) const PROXY_MARK: &str = "PITON_PROXY";
/// How long requests that a slot still works on may take when it is to stop.
pub(super) const DRAIN: Duration = Duration::from_secs(30);
/// How long to wait before a proxy that does not answer yet is asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a release in traffic waits for a proxy that is handed over or started again.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a proxy may take to answer after it was started.
const START: Duration = Duration::from_secs(10);

/// Makes sure that the proxy runs, and tells it where the release listens; no traffic moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// The environment.
    pub environment: String,
    /// Where the proxy takes traffic.
    pub listen: SocketAddr,
    /// The release's slot.
    pub slot: Slot,
    /// The release's port.
    pub port: u16,
    /// The slot and the port of the release that serves.
    pub live: Option<(Slot, u16)>,
}

impl Act for Connect {
    fn words(&self, site: &Site<'_>) -> Words {
        let does =
            format!("the proxy on {} learns of {} at :{}, 0% of traffic", self.listen, self.slot, self.port);
        let undo = format!("the proxy forgets {}", self.slot);
        Words::new(does, undo).with([proxy_command(
            Path::new("piton"),
            &site.dirs.proxy(&self.environment),
            self.listen,
        )])
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let mut client = match (connect(&ctx.world.dirs.proxy(&self.environment)).await?, self.live) {
            (Some(client), _) => client,
            // Nothing served here before: there is none that could have died.
            (None, None) => self.start(ctx).await?,
            (None, Some(_)) => client(ctx).await?,
        };
        let status = client.status().await.or_fault(no_answer)?;
        let mut upstreams = vec![(self.slot, self.port)];
        upstreams.extend(self.live);
        let all_to = match self.live {
            // Whatever an earlier fall left behind: the release that serves has all traffic before the new one is known.
            Some((slot, _)) => Some(slot),
            None if status.weights.share(self.slot) > 0 => Some(self.slot.other()),
            None => None,
        };
        if let Some(slot) = all_to {
            client.set_weights(Weights::all(slot)).await.or_fault(no_answer)?;
        }
        for (slot, port) in upstreams {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            client.set_upstream(slot, Some(address)).await.or_fault(no_answer)?;
        }
        Ok(json!({ "listen": self.listen.to_string() }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let dir = ctx.world.dirs.proxy(&self.environment);
        if self.live.is_none() {
            // Nothing served before, so nothing is left behind.
            self.stop(&dir).await?;
            crate::files::remove_folder(&dir).or_fault(|| "the proxy's folder cannot be removed".into())?;
            return Ok(json!({ "proxy": "stopped" }));
        }
        traffic_back(ctx, self.live).await?;
        let mut client = client(ctx).await?;
        // What the release still works on was taken in good faith, whatever became of the release.
        let drained = client.drain(self.slot, DRAIN).await.or_fault(no_answer)?;
        in_force(client.set_upstream(self.slot, None).await)?;
        Ok(json!({ "proxy": "runs", "cut_off": drained.left }))
    }
}

impl Connect {
    /// Starts the environment's first proxy.
    async fn start(&self, ctx: &Ctx<'_, '_>) -> Result<Client, Fault> {
        let dir = ctx.world.dirs.proxy(&self.environment);
        let pid = start(&dir, self.listen, &ctx.world.piton)?;
        ctx.launched(&proxy_command(&ctx.world.piton, &dir, self.listen), pid)?;
        wait(&dir, self.listen).await
    }

    /// Ends the proxy that serves in `dir`, whoever started it, after what it still works on.
    async fn stop(&self, dir: &Path) -> Result<(), Fault> {
        let mark = dir.display().to_string();
        let is_left = async || is_running(dir).await || !marker::find(PROXY_MARK, &mark).is_empty();
        let start = Instant::now();
        let mut ordered = Ok(());
        while ordered.is_ok() && start.elapsed() < DRAIN && is_left().await {
            ordered = match Client::connect(dir).await {
                Ok(mut client) => client.stop().await,
                Err(ControlError::NotRunning { .. }) => {
                    // It starts, or it is leaving already.
                    tokio::time::sleep(PAUSE).await;
                    Ok(())
                }
                Err(error) => Err(error),
            };
        }
        marker::stop(PROXY_MARK, &mark, Duration::from_secs(10)).await;
        if !is_left().await {
            return Ok(());
        }
        let mut fault = Fault::surroundings(format!("the proxy on {} does not stop", self.listen));
        if let Err(error) = ordered {
            fault = fault.caused_by(&error);
        }
        Err(fault.because("its folder stays, because no order reaches a proxy without it").hint(format!(
            "ss -ltnp 'sport = :{}' shows its process; end it, then piton resume {}",
            self.listen.port(),
            self.environment
        )))
    }
}

pub(super) fn no_answer() -> String {
    "the proxy does not answer".into()
}

fn proxy_command(piton: &Path, dir: &Path, listen: SocketAddr) -> Command {
    let listen = listen.to_string();
    let dir = dir.display().to_string();
    Command::new(piton.display().to_string()).args(["proxy", "--state", &dir, "--listen", &listen])
}

/// Connects to the environment's proxy, and starts it again first when it has died.
pub(super) async fn client(ctx: &Ctx<'_, '_>) -> Result<Client, Fault> {
    let settings = ctx.settings();
    let dir = ctx.world.dirs.proxy(&settings.environment);
    if let Some(client) = connect(&dir).await? {
        return Ok(client);
    }
    super::revive::proxy(ctx.world, &mut |event| ctx.append(&event)).await?
}

/// Starts the environment's proxy and waits for it.
pub(super) async fn start_anew(world: &World) -> Result<Client, Fault> {
    let dir = world.dirs.proxy(&world.settings.environment);
    start(&dir, world.settings.listen, &world.piton)?;
    wait(&dir, world.settings.listen).await
}

/// Tells whether a proxy answers in `dir`.
pub(super) async fn is_running(dir: &Path) -> bool {
    Client::connect(dir).await.is_ok()
}

/// Connects to the proxy in `dir`; `None` when none runs.
async fn connect(dir: &Path) -> Result<Option<Client>, Fault> {
    match Client::connect(dir).await {
        Ok(client) => Ok(Some(client)),
        Err(ControlError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(Fault::surroundings(no_answer()).caused_by(&error)),
    }
}

fn log_of(dir: &Path) -> PathBuf {
    dir.join("proxy.log")
}

/// Starts a proxy in `dir`, without waiting for it; returns its process.
fn start(dir: &Path, listen: SocketAddr, piton: &Path) -> Result<u32, Fault> {
    fs_err::create_dir_all(dir).or_fault(|| "the proxy's folder cannot be made".into())?;
    let command = proxy_command(piton, dir, listen).env(PROXY_MARK, dir.display().to_string());
    local::spawn_detached(&command, Inherit::Only(&super::INHERITED), &log_of(dir))
        .or_fault(|| "the proxy cannot be started".into())
}

/// Waits for the proxy that was started in `dir`.
async fn wait(dir: &Path, listen: SocketAddr) -> Result<Client, Fault> {
    let log = log_of(dir);
    let start = Instant::now();
    loop {
        match Client::connect(dir).await {
            Ok(client) => return Ok(client),
            Err(error) if start.elapsed() > START => {
                let said = fs_err::read_to_string(&log).unwrap_or_default();
                let mut fault =
                    Fault::surroundings(format!("the proxy did not start on {listen}")).caused_by(&error);
                fault.why.extend(super::last_lines(&said, 3));
                return Err(fault.hint(format!("its output is in {}", log.display())));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Sends all traffic to the release that served before.
///
/// Returns how long the proxy took, in milliseconds; `None` when there was nothing to move.
pub(super) async fn traffic_back(ctx: &Ctx<'_, '_>, live: Option<(Slot, u16)>) -> Result<Option<f64>, Fault> {
    let Some((slot, port)) = live else { return Ok(None) };
    // A verdict sends traffic back before a word is written: what the journal would refuse must not happen either.
    ctx.not_fenced_off()?;
    let status = patiently(async || client(ctx).await?.status().await.or_fault(no_answer)).await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if status.weights == Weights::all(slot) && status.upstreams[slot] == Some(address) {
        return Ok(None);
    }
    super::revive::live(ctx).await?;
    let took = patiently(async || {
        let mut client = client(ctx).await?;
        if status.upstreams[slot] != Some(address) {
            in_force(client.set_upstream(slot, Some(address)).await)?;
        }
        let ordered = Instant::now();
        let switched = in_force(client.set_weights(Weights::all(slot)).await)?;
        Ok(switched.map_or_else(|| ordered.elapsed(), |switched| switched.took))
    });
    Ok(Some(took.await?.as_secs_f64() * 1000.0))
}

/// Tries again for a while what the proxy does not answer: traffic that is to go back has nowhere else to go.
async fn patiently<T>(order: impl AsyncFn() -> Result<T, Fault>) -> Result<T, Fault> {
    let began = Instant::now();
    loop {
        match order().await {
            Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            ended => return ended,
        }
    }
}

/// An order that the proxy obeys but could not save is obeyed: traffic matters more than a full disk.
pub(super) fn in_force<T>(ordered: Result<T, ControlError>) -> Result<Option<T>, Fault> {
    match ordered {
        Ok(answer) => Ok(Some(answer)),
        Err(ControlError::NotSaved(_)) => Ok(None),
        Err(error) => Err(Fault::surroundings(no_answer()).caused_by(&error)),
    }
}
