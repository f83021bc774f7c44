//! The proxy's side of the control socket.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::bucket::BUCKETS;
use crate::claim::{self, Footing};
use crate::control::{Answer, Drained, Fault, Held, Order, Released, Slot, Stats, Status, Switched};
use crate::hold::{Hold, HoldCounts};
use crate::routing::Router;
use crate::state::State;
use crate::succession::Busy;
use crate::unix;
use crate::worker::{Leave, WorkerGone, Workers};

/// How the proxy leaves when it is stopped.
pub(crate) const STOP: Leave =
    Leave { idle: Duration::ZERO, requests: Duration::from_secs(30), websockets: Duration::ZERO };

/// How the proxy leaves when a successor serves: whoever keeps a connection open without use gets time to
/// use it once more, so that no request crosses with its closing; a long download or a WebSocket may end.
pub(crate) const HANDED_OVER: Leave = Leave {
    idle: Duration::from_secs(15),
    requests: Duration::from_hours(1),
    websockets: Duration::from_hours(1),
};

/// How long a successor may take to say that it serves; it has only to read its orders and start its workers.
const TAKING: Duration = Duration::from_secs(5);

/// How long after a failed saving of the orders the next one is tried.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// How the control side came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Stopped,
    HandedOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The successor has the sockets; orders wait for it.
    HandingOver,
    Ended(End),
}

/// The latest hold that a control connection ordered.
type OwnHold = RefCell<Option<Arc<Hold>>>;

/// What the proxy has been ordered, and whom it tells.
pub(crate) struct Control {
    dir: PathBuf,
    listen: SocketAddr,
    epoch: String,
    since: Timestamp,
    router: Arc<Router>,
    pub(crate) workers: Workers,
    pub(crate) footing: Footing,
    desk: RefCell<Desk>,
    phase: watch::Sender<Phase>,
    /// Held from a change until it is saved, so that a successor never reads an older state.
    changing: Mutex<()>,
    /// Who ordered the proxy to stop: the end of the connection tells that it has.
    pub(crate) waiting: RefCell<Vec<StdUnixStream>>,
    /// Tells a successor that requests are still in flight here, and by its end that new ones obey it.
    pub(crate) successor: RefCell<Option<(Busy, Option<StdUnixStream>)>>,
}

/// The orders in force.
struct Desk {
    state: State,
    /// Whether the state file is older than the state.
    is_unsaved: bool,
    hold: Option<Arc<Hold>>,
    /// The hold that ended by itself, or with who ordered it, and that nobody has released yet.
    lapsed: Option<Arc<Hold>>,
    /// What the holds before the one in force did.
    past: HoldCounts,
}

impl Control {
    pub(crate) fn new(
        dir: PathBuf,
        listen: SocketAddr,
        state: State,
        router: Arc<Router>,
        workers: Workers,
        footing: Footing,
    ) -> Control {
        Control {
            dir,
            listen,
            epoch: format!("{:016x}", rand::random::<u64>()),
            since: Timestamp::now(),
            router,
            workers,
            footing,
            desk: RefCell::new(Desk {
                state,
                is_unsaved: false,
                hold: None,
                lapsed: None,
                past: HoldCounts::default(),
            }),
            phase: watch::Sender::new(Phase::Serving),
            changing: Mutex::default(),
            waiting: RefCell::default(),
            successor: RefCell::default(),
        }
    }

    /// Takes orders until the proxy is stopped or handed over.
    pub(crate) async fn run(self: &Rc<Self>) -> io::Result<End> {
        let listener = UnixListener::from_std(self.footing.control.try_clone()?)?;
        let mut terminated = pin!(terminated());
        let mut phase = self.phase.subscribe();
        loop {
            let now = *phase.borrow_and_update();
            if let Phase::Ended(end) = now {
                return Ok(end);
            }
            tokio::select! {
                // During a hand-over, new connections are left to the successor.
                accepted = listener.accept(), if now == Phase::Serving => match accepted {
                    Ok((stream, _)) => drop(spawn_local(Rc::clone(self).serve(stream))),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on the control socket");
                        sleep(Duration::from_millis(50)).await;
                    }
                },
                _ = phase.changed() => {}
                signalled = terminated.as_mut() => return signalled.map(|()| End::Stopped),
            }
        }
    }

    /// Removes the socket of a proxy that was stopped.
    pub(crate) fn remove_socket(&self) {
        // During a hand-over the socket is the successor's already.
        if *self.phase.borrow() != Phase::HandingOver
            && let Err(error) = unix::remove(&self.dir)
        {
            tracing::debug!(%error, "cannot remove the control socket");
        }
    }

    async fn serve(self: Rc<Self>, stream: UnixStream) {
        let own = OwnHold::default();
        if let Err(error) = self.take_orders(BufReader::new(stream), &own).await {
            tracing::debug!(%error, "control connection broke off");
        }
        self.abandon(&own);
    }

    async fn take_orders(
        self: &Rc<Self>,
        mut stream: BufReader<UnixStream>,
        own: &OwnHold,
    ) -> io::Result<()> {
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).await? > 0 {
            let received = Instant::now();
            let order = serde_json::from_slice::<Order>(&line);
            line.clear();
            if *self.phase.borrow() != Phase::Serving {
                return send::<()>(&mut stream, Err(Fault::Replaced)).await;
            }
            match order {
                Ok(Order::TakeOver) => return self.hand_over(stream).await,
                Ok(Order::Stop) => {
                    send(&mut stream, Ok(())).await?;
                    self.waiting.borrow_mut().push(stream.into_inner().into_std()?);
                    self.phase.send_replace(Phase::Ended(End::Stopped));
                    return Ok(());
                }
                Ok(order) => {
                    let mut carrying_out = pin!(self.carry_out(order, received, own));
                    // A drain takes long; who ordered it may be killed meanwhile.
                    let done = tokio::select! {
                        biased;
                        done = &mut carrying_out => done,
                        () = closed(&mut stream) => {
                            self.abandon(own);
                            carrying_out.await
                        }
                    };
                    send(&mut stream, done).await?;
                }
                Err(error) => send::<()>(&mut stream, Err(Fault::Refused(error.to_string()))).await?,
            }
        }
        Ok(())
    }

    async fn carry_out(
        self: &Rc<Self>,
        order: Order,
        received: Instant,
        own: &OwnHold,
    ) -> Result<Value, Fault> {
        match order {
            Order::Status => json(self.status()),
            Order::SetUpstream { slot, addr } => {
                self.change(received, |state| state.upstreams[slot] = addr).await?;
                json(self.status())
            }
            Order::SetWeights { weights } if weights.green > BUCKETS => {
                Err(Fault::Refused(format!("green's share is {}, the whole is {BUCKETS}", weights.green)))
            }
            Order::SetWeights { weights } => {
                json(self.change(received, |state| state.weights = weights).await?)
            }
            Order::Maintenance { page } => {
                self.change(received, |state| state.maintenance = page).await?;
                json(self.status())
            }
            Order::Hold { bound } => json(self.hold(bound, own).await?),
            Order::Release => json(self.release().await?),
            Order::Drain { slot, bound } => json(self.drain(slot, bound).await?),
            Order::Stats => json(self.stats().await?),
            Order::Stop | Order::TakeOver | Order::Taken => {
                Err(Fault::Refused("nothing is being handed over".to_owned()))
            }
        }
    }

    fn status(&self) -> Status {
        let desk = self.desk.borrow();
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: self.epoch.clone(),
            since: self.since,
            listen: self.listen,
            workers: self.workers.count(),
            generation: desk.state.generation,
            weights: desk.state.weights,
            upstreams: desk.state.upstreams,
            maintenance: desk.state.maintenance.clone(),
            hold_until: desk.hold.as_ref().map(|hold| wall_clock(hold.until())),
        }
    }

    /// Puts a changed state in force, waits until every worker sees it, and saves it.
    async fn change(
        self: &Rc<Self>,
        received: Instant,
        edit: impl FnOnce(&mut State),
    ) -> Result<Switched, Fault> {
        let at = wall_clock(received);
        let _turn = self.changing.lock().await;
        if *self.phase.borrow() != Phase::Serving {
            return Err(Fault::Replaced);
        }
        let generation = {
            let mut desk = self.desk.borrow_mut();
            edit(&mut desk.state);
            desk.state.generation += 1;
            self.router.put(&desk.state, desk.hold.as_ref());
            desk.state.generation
        };
        self.workers.see().await?;
        let took = received.elapsed();
        let was_unsaved = self.desk.borrow().is_unsaved;
        if let Err(error) = self.save() {
            if !was_unsaved {
                spawn_local(Rc::clone(self).save_later());
            }
            return Err(Fault::NotSaved(error.to_string()));
        }
        Ok(Switched { at, took, generation })
    }

    fn save(&self) -> io::Result<()> {
        let mut desk = self.desk.borrow_mut();
        let saved = desk.state.save(&self.dir);
        desk.is_unsaved = saved.is_err();
        saved
    }

    /// Tries until the state is saved: a restart, days later perhaps, must not put older orders in force.
    async fn save_later(self: Rc<Self>) {
        loop {
            sleep(SAVE_AGAIN).await;
            let _turn = self.changing.lock().await;
            if !self.desk.borrow().is_unsaved || self.save().is_ok() {
                return;
            }
        }
    }

    async fn hold(self: &Rc<Self>, bound: Duration, own: &OwnHold) -> Result<Held, Fault> {
        let until = after(bound)?;
        let hold = Arc::new(Hold::new(until));
        own.replace(Some(Arc::clone(&hold)));
        let replaced = {
            let mut desk = self.desk.borrow_mut();
            let replaced = desk.hold.replace(Arc::clone(&hold));
            let lapsed = desk.lapsed.take();
            for before in replaced.iter().chain(&lapsed) {
                desk.past.add(before.counts());
            }
            self.router.put(&desk.state, desk.hold.as_ref());
            replaced
        };
        // Whoever waited for the replaced hold now waits for this one.
        if let Some(replaced) = replaced {
            replaced.release();
        }
        spawn_local(Rc::clone(self).end_at_bound(hold));
        self.workers.see().await?;
        Ok(Held { until: wall_clock(until) })
    }

    /// Takes a hold that reached its bound out of the routing, so that no request looks at it any more.
    async fn end_at_bound(self: Rc<Self>, hold: Arc<Hold>) {
        // The waiting requests find out about the bound themselves; this only has to come after them.
        sleep_until(hold.until() + Duration::from_millis(100)).await;
        self.lapse(&hold);
    }

    /// Ends the hold that a connection ordered, if it is still the one in force: nobody is left to release it.
    fn abandon(&self, own: &OwnHold) {
        if let Some(hold) = own.take() {
            self.lapse(&hold);
        }
    }

    fn lapse(&self, hold: &Arc<Hold>) {
        let mut desk = self.desk.borrow_mut();
        if desk.hold.as_ref().is_some_and(|current| Arc::ptr_eq(current, hold)) {
            desk.lapsed = desk.hold.take();
            self.router.put(&desk.state, None);
            hold.release();
        }
    }

    async fn release(&self) -> Result<Released, Fault> {
        let (hold, lapsed) = {
            let mut desk = self.desk.borrow_mut();
            let hold = desk.hold.take();
            self.router.put(&desk.state, None);
            let lapsed = hold.as_ref().is_none_or(|hold| hold.is_over());
            (hold.or(desk.lapsed.take()), lapsed)
        };
        let Some(hold) = hold else { return Ok(Released { lapsed, ..Released::default() }) };
        hold.release();
        self.workers.see().await?;
        let HoldCounts { held, expired, longest } = hold.counts();
        self.desk.borrow_mut().past.add(hold.counts());
        Ok(Released { held, expired, longest, lapsed })
    }

    async fn drain(&self, slot: Slot, bound: Duration) -> Result<Drained, Fault> {
        let deadline = after(bound)?;
        loop {
            // Which slot a predecessor's requests are on is not known; they count as one.
            let before = Busy::is_anyone(&self.dir).map_err(|error| Fault::Refused(error.to_string()))?;
            let left = self.workers.in_flight(slot).await? + u64::from(before);
            if left == 0 || Instant::now() >= deadline {
                return Ok(Drained { left });
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stats(&self) -> Result<Stats, Fault> {
        let mut stats = self.workers.read().await?;
        let desk = self.desk.borrow();
        let mut holds = desk.past;
        for hold in desk.hold.iter().chain(&desk.lapsed) {
            holds.add(hold.counts());
        }
        stats.epoch.clone_from(&self.epoch);
        stats.held = holds.held;
        stats.held_expired = holds.expired;
        Ok(stats)
    }

    fn may_hand_over(&self) -> Result<(), Fault> {
        if *self.phase.borrow() != Phase::Serving {
            return Err(Fault::Replaced);
        }
        if self.desk.borrow().hold.as_ref().is_some_and(|hold| !hold.is_over()) {
            // A hold does not outlive the process, and whoever ordered it relies on it.
            return Err(Fault::Refused(
                "requests are held now; try again when the hold has ended".to_owned(),
            ));
        }
        let is_unsaved = self.desk.borrow().is_unsaved;
        if is_unsaved && let Err(error) = self.save() {
            // The successor would put older orders in force.
            let why = format!("its orders are not saved in {}; make room there", self.dir.display());
            return Err(Fault::Refused(format!("{why}: {error}")));
        }
        Ok(())
    }

    /// Gives the lock and the sockets to a successor, and ends when it says that it serves; goes on when it does not.
    async fn hand_over(&self, mut stream: BufReader<UnixStream>) -> io::Result<()> {
        let busy = Busy::begin(&self.dir)?;
        let turn = self.changing.lock().await;
        if let Err(fault) = self.may_hand_over() {
            return send::<()>(&mut stream, Err(fault)).await;
        }
        self.phase.send_replace(Phase::HandingOver);
        drop(turn);
        let mut line = Vec::new();
        let taking = async {
            claim::give(stream.get_ref(), &self.footing).await?;
            stream.read_until(b'\n', &mut line).await
        };
        // Until then no order is answered, the one for the way back included.
        let said = timeout(TAKING, taking).await.unwrap_or_else(|late| Err(late.into()));
        if said.is_ok() && matches!(serde_json::from_slice(&line), Ok(Order::Taken)) {
            self.successor.replace(Some((busy, stream.into_inner().into_std().ok())));
            self.phase.send_replace(Phase::Ended(End::HandedOver));
            return Ok(());
        }
        // A successor that failed to start has closed its copies; one that was late must not serve beside this one.
        self.phase.send_replace(Phase::Serving);
        let why = "its successor did not say in time that it serves, so it goes on".to_owned();
        let told = send::<()>(&mut stream, Err(Fault::Refused(why))).await;
        said.and(told)
    }
}

/// Waits until the other side has closed its connection; for ever when it has sent more instead.
async fn closed(stream: &mut BufReader<UnixStream>) {
    if stream.fill_buf().await.is_ok_and(|more| !more.is_empty()) {
        std::future::pending::<()>().await;
    }
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn terminated() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

impl From<WorkerGone> for Fault {
    fn from(gone: WorkerGone) -> Fault {
        Fault::Refused(gone.to_string())
    }
}

fn json(value: impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value).map_err(|error| Fault::Refused(error.to_string()))
}

async fn send<T: Serialize>(stream: &mut BufReader<UnixStream>, done: Result<T, Fault>) -> io::Result<()> {
    let mut line = serde_json::to_vec(&match done {
        Ok(value) => Answer::Done(value),
        Err(fault) => Answer::Fault(fault),
    })?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await
}

/// Returns the moment at which `bound` will have passed.
fn after(bound: Duration) -> Result<Instant, Fault> {
    let moment = Instant::now().checked_add(bound);
    moment.ok_or_else(|| Fault::Refused("the bound is beyond all time".to_owned()))
}

fn wall_clock(instant: Instant) -> Timestamp {
    let now = Timestamp::now();
    let there = match instant.checked_duration_since(Instant::now()) {
        Some(ahead) => now.checked_add(ahead),
        None => now.checked_sub(instant.elapsed()),
    };
    there.unwrap_or(now)
}
