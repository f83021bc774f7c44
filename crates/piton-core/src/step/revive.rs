//! Starts again what should run and has died.

use piton_proxy::Slot;
use piton_proxy::control::Client;

use super::{Ctx, StartSlot, World, proxy as the_proxy};
use crate::fault::Fault;
use crate::journal::Event;
use crate::plan::Phase;

/// An app that has to run now.
#[derive(Clone, Debug)]
pub struct ShouldRun {
    /// How it was started, and so can be again.
    pub start: StartSlot,
    /// What depends on it.
    pub role: Role,
}

/// What depends on an app that has to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The traffic is on it, or has to go back to it: nothing is carried on without it.
    Needed,
    /// A new release: the gate judges what comes of it.
    Judged,
    /// The way back, while the new release has all traffic.
    Spare,
}

/// What became of an environment's services that had died.
#[derive(Clone, Debug, Default)]
pub struct Revived {
    /// What was started again.
    pub started: Vec<String>,
    /// Why others could not be; a release goes on without them.
    pub missed: Vec<Fault>,
    /// Why nothing may be carried on: what traffic needs could not be started. All else that could be runs.
    pub fault: Option<Fault>,
}

/// Starts again what should run in an environment and has died: the apps that have traffic, the proxy that sends it to them, the
/// way back.
///
/// Each is tried, whatever became of the others. `journal` takes an event before each start and one after it.
pub(crate) async fn revive(
    world: &World,
    mut journal: impl FnMut(Event) -> Result<(), Fault>,
) -> Result<Revived, Fault> {
    let mut revived = Revived::default();
    let mut dead = Vec::new();
    // Nobody waits for an app without traffic.
    let (spare, served): (Vec<&ShouldRun>, Vec<&ShouldRun>) =
        world.should_run.iter().partition(|app| app.role == Role::Spare);
    revive_apps(world, &served, &mut journal, &mut revived, &mut dead).await?;
    let dir = world.dirs.proxy(&world.settings.environment);
    let mut no_proxy = None;
    if !world.should_run.is_empty() && !the_proxy::is_running(&dir).await {
        match proxy(world, &mut journal).await? {
            Ok(_) => revived.started.push(name_of_proxy(world)),
            Err(fault) => no_proxy = Some(fault),
        }
    }
    revive_apps(world, &spare, &mut journal, &mut revived, &mut dead).await?;
    let nobody_serves = dead.len() == world.should_run.len();
    let fatal = |&(role, _): &(Role, Fault)| role == Role::Needed || nobody_serves;
    if let Some(index) = dead.iter().position(fatal) {
        revived.fault = Some(dead.remove(index).1);
    }
    if let Some(fault) = no_proxy {
        revived.missed.extend(revived.fault.replace(fault));
    }
    for (role, fault) in dead {
        let goes_on = match role {
            Role::Spare => "until it runs there is no way back; the release goes on without one",
            Role::Judged | Role::Needed => "the release goes on; the gate judges what comes of it",
        };
        revived.missed.push(if revived.fault.is_none() { fault.because(goes_on) } else { fault });
    }
    Ok(revived)
}

/// Starts apps again that have died, and collects those that cannot be.
async fn revive_apps(
    world: &World,
    apps: &[&ShouldRun],
    journal: &mut impl FnMut(Event) -> Result<(), Fault>,
    revived: &mut Revived,
    dead: &mut Vec<(Role, Fault)>,
) -> Result<(), Fault> {
    for app in apps.iter().filter(|app| !app.start.listens()) {
        match start_again(world, &app.start, |_| {}, journal).await? {
            Ok(()) => revived.started.push(app.start.place()),
            Err(fault) => dead.push((app.role, fault)),
        }
    }
    Ok(())
}

/// Starts an app again; the inner result is what became of it.
async fn start_again(
    world: &World,
    app: &StartSlot,
    say: impl Fn(&str),
    journal: &mut impl FnMut(Event) -> Result<(), Fault>,
) -> Result<Result<(), Fault>, Fault> {
    let started = journaled(app.place(), app.start_again(world, say), journal).await?;
    Ok(started.map(drop).map_err(|fault| cannot_start(&app.place(), fault)))
}

/// Starts the environment's proxy again; the inner result is what became of it.
pub(super) async fn proxy(
    world: &World,
    journal: &mut impl FnMut(Event) -> Result<(), Fault>,
) -> Result<Result<Client, Fault>, Fault> {
    journaled(name_of_proxy(world), the_proxy::start_anew(world), journal).await
}

fn name_of_proxy(world: &World) -> String {
    format!("proxy on {}", world.settings.listen)
}

/// Journals before and after something is started again; the outer error is the journal's.
async fn journaled<T>(
    what: String,
    start: impl Future<Output = Result<T, Fault>>,
    journal: &mut impl FnMut(Event) -> Result<(), Fault>,
) -> Result<Result<T, Fault>, Fault> {
    journal(Event::Reviving { what: what.clone() })?;
    let started = start.await;
    if started.is_ok() {
        journal(Event::Revived { what })?;
    }
    Ok(started)
}

/// Says that an app which should run cannot be started again.
fn cannot_start(what: &str, fault: Fault) -> Fault {
    let mut why = vec![fault.what];
    why.extend(fault.why);
    Fault { what: format!("{what} cannot be started again"), why, ..fault }
}

/// Says the ways on for who has no release to go back to.
pub(crate) fn without_way_back(fault: Fault, environment: &str, dead: Slot, new: Slot) -> Fault {
    let mut fault = fault;
    fault.why.extend(fault.hint.take());
    fault.hint(format!(
        "mend {dead}, then piton resume {environment}; where it cannot be mended, \
         piton resume {environment} --forward gives up the way back and goes on with {new}"
    ))
}

/// Starts the release that served before again, when nothing of it listens any more.
///
/// One that is only slow is not touched: traffic goes to it at once.
pub(super) async fn live(ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
    let Some(live) = &ctx.plan.live else { return Ok(()) };
    if live.start.listens() {
        return Ok(());
    }
    let again = async |app| {
        start_again(ctx.world, app, |text| ctx.say(text), &mut |event| ctx.append(&event)).await?
    };
    let Err(fault) = again(&live.start).await else { return Ok(()) };
    // Traffic stays where it is; and whoever has it has to run.
    if ctx.plan.steps[ctx.index].phase < Phase::Shift {
        return Err(fault);
    }
    let Some(new) = ctx.plan.start() else { return Err(fault) };
    let serves = new.listens() || again(new).await.is_ok();
    let place = new.place();
    let fault = fault.because(match serves {
        true => format!("traffic does not go to it; {place} runs"),
        false => format!("{place} cannot be started again either"),
    });
    Err(without_way_back(fault, &ctx.plan.environment, live.start.slot, new.slot))
}
