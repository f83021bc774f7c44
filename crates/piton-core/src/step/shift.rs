use std::time::{Duration, Instant};

use piton_proxy::control::Stats;
use piton_proxy::{Slot, Weights};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::follow::{Following, Standing};
use super::proxy::{PATIENCE, client, in_force, no_answer, traffic_back};
use super::{Act, Ctx, Site, Words};
use crate::config::{self, Percent, format_duration};
use crate::fault::{Fault, Kind, OrFault};
use crate::gate::{Answers, Gate, Verdict};
use crate::journal::{Event, GoOn};

/// How often the gate looks.
const LOOK: Duration = Duration::from_millis(250);
/// How long the release that serves again is looked at, where a migration stays that may have broken it.
const SHORT_LOOK: Duration = Duration::from_secs(3);
/// How often what the gate has seen is journaled. A kill loses nothing meanwhile: the proxy's counters go on.
const NOTE: Duration = Duration::from_secs(30);

/// Gives the release a share of traffic and lets the gate judge it for the step's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The environment.
    pub environment: String,
    /// The release's slot.
    pub slot: Slot,
    /// Its share.
    pub share: Percent,
    /// How long the share stays at least.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub bake: Duration,
    /// The limits.
    pub gate: config::Gate,
    /// The slot and the port of the release that served before.
    pub live: Option<(Slot, u16)>,
}

/// Keeps the release before warm, and the way back open, while the gate goes on judging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The environment.
    pub environment: String,
    /// The release's slot.
    pub slot: Slot,
    /// How long.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub length: Duration,
    /// The limits.
    pub gate: config::Gate,
    /// The slot and the port of the release that served before.
    pub live: Option<(Slot, u16)>,
}

/// What a bake needs to be taken up again.
#[derive(Serialize, Deserialize)]
struct Note {
    gate: Gate,
    /// The proxy's counters at the last look that the gate has taken in.
    seen: Stats,
    /// How much of the step's time had passed then.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    served: Duration,
    /// What the machine's clock that nobody sets showed then; it means something to the same boot alone.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    at: Duration,
}

impl Note {
    /// Lets the gate see what was answered since the last look; returns how long that was.
    ///
    /// While Piton was away its proxy served on: that time counts. A proxy that was away itself served nobody.
    ///
    /// Beside a release that has all of the traffic the other slot ends what it was given before: that tells of no outage, and
    /// nobody is better off when the step ends early.
    fn take_in(&mut self, slot: Slot, share: Percent, stats: Stats) -> Duration {
        let now = uptime();
        let was_there = stats.epoch == self.seen.epoch;
        let time = if was_there { now.saturating_sub(self.at) } else { Duration::ZERO };
        let window = stats.since(&self.seen);
        let answers = |slot: Slot| Answers::from(&window.slots[slot]);
        let serving = if share == Percent::FULL { Answers::default() } else { answers(slot.other()) };
        self.gate.see(time, &answers(slot), &serving);
        self.at = now;
        self.seen = stats;
        time
    }
}

/// What a bake leaves for the next one and for people.
#[derive(Serialize, Deserialize)]
struct Outcome {
    gate: Gate,
    why: String,
    /// How long the proxy took to move traffic, in milliseconds.
    switch_ms: f64,
}

impl Act for Shift {
    fn words(&self, _site: &Site<'_>) -> Words {
        let bake =
            if self.bake.is_zero() { String::new() } else { format!(" for {}", format_duration(self.bake)) };
        let undo = match self.live {
            Some((slot, _)) => format!("all traffic to {slot}"),
            None => "no traffic".into(),
        };
        Words::new(format!("{} of traffic to {}{bake}", self.share, self.slot), undo)
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        // Nobody waits at a release before that cannot run.
        let share = if ctx.forward { Percent::FULL } else { self.share };
        let bake = Bake { slot: self.slot, share, live: self.live, length: self.bake, limits: self.gate };
        bake.run(ctx).await
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Ok(json!({ "switch_ms": traffic_back(ctx, self.live).await? }))
    }
}

impl Act for Watch {
    fn words(&self, _site: &Site<'_>) -> Words {
        let before = self.live.map_or_else(String::new, |(slot, _)| format!("{slot} stays warm, "));
        let undo = self.live.map_or_else(|| "nothing".into(), |(slot, _)| format!("all traffic to {slot}"));
        Words::new(format!("{}, {before}the way back open", format_duration(self.length)), undo)
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let (share, length) = (Percent::FULL, self.length);
        let bake = Bake { slot: self.slot, share, live: self.live, length, limits: self.gate };
        bake.run(ctx).await
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Ok(json!({ "switch_ms": traffic_back(ctx, self.live).await? }))
    }
}

/// A time during which the release has a share of the traffic and the gate judges.
struct Bake {
    slot: Slot,
    share: Percent,
    live: Option<(Slot, u16)>,
    length: Duration,
    limits: config::Gate,
}

impl Bake {
    /// Gives the release its share and judges it; whoever fails at that without a verdict sends the traffic back.
    ///
    /// A proxy whose answer never came may have obeyed. A first release, and one that has given up its way back, keeps what it
    /// has.
    async fn run(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let judged = async {
            let (note, switch_ms) = self.begin(ctx).await?;
            let (gate, why) = self.judge(ctx, note).await?;
            Ok::<_, Fault>(super::to_value(&Outcome { gate, why, switch_ms }))
        };
        match judged.await {
            Err(fault) if fault.kind != Kind::Verdict && !ctx.forward => {
                Err(match (traffic_back(ctx, self.live).await, self.live) {
                    (Ok(_), Some((slot, _))) => fault.because(format!("all traffic is on {slot} meanwhile")),
                    (Ok(_), None) => fault,
                    (Err(_), _) => fault.because("the traffic is where it was, and nobody judges it"),
                })
            }
            ended => ended,
        }
    }

    /// Returns when the gate says continue after the time, or a person does; a verdict to roll back is an error.
    async fn judge(&self, ctx: &Ctx<'_, '_>, mut note: Note) -> Result<(Gate, String), Fault> {
        let mut noted = Instant::now();
        if ctx.forward {
            return Ok((note.gate, "the way back is given up: nothing is judged".into()));
        }
        if self.length.is_zero() {
            // A step without a time has nothing to be judged by; the next one, or the watch, judges.
            return Ok((note.gate, String::new()));
        }
        let mut away: Option<Instant> = None;
        let following = Following::begin(ctx);
        loop {
            let standing = following.as_ref().map(Following::standing).unwrap_or_default();
            tell(ctx, &standing);
            if let Standing::Lost(lost) = standing {
                let environment = &ctx.plan.environment;
                return Err(Fault::surroundings("the golden copy cannot follow the database any more")
                    .because(lost)
                    .hint(format!(
                        "piton resume {environment} goes on without a way back for the migration, piton abort {environment} goes back"
                    )));
            }
            match self.look(ctx, &mut note).await {
                Ok(()) => away = None,
                // A proxy that is handed over or started again is back in a moment; a release in traffic waits for it.
                Err(fault) if away.get_or_insert_with(Instant::now).elapsed() > PATIENCE => {
                    return Err(fault);
                }
                Err(_) => {}
            }
            let has_passed = note.served >= self.length;
            let verdict = note.gate.verdict(has_passed);
            if let Verdict::RollBack(why) = verdict {
                // Before a word is written: a full disk must not keep traffic on a release that was judged bad. Where it
                // fails, the verdict stands all the same: the release turns back and tries again.
                let moved = traffic_back(ctx, self.live).await;
                let fault = Fault::verdict(why);
                return Err(match moved {
                    Ok(_) => fault,
                    Err(moving) => fault.caused_by(&moving),
                });
            }
            if ctx.go_on().is_some_and(|go_on| go_on == GoOn::Now || has_passed) {
                let why = format!("{}; a person said continue", note.gate.summary());
                return Ok((note.gate, why));
            }
            match verdict {
                Verdict::Continue(why) if !ctx.held() => return Ok((note.gate, why)),
                Verdict::Continue(_) => {
                    ctx.say(&format!("held by a person; piton continue {} goes on", ctx.plan.environment));
                }
                Verdict::Hold(why) | Verdict::RollBack(why) => {
                    let left = self.length.saturating_sub(note.served);
                    let state = if left.is_zero() || note.gate.both_fail() {
                        let environment = &ctx.plan.environment;
                        let database = if note.gate.both_fail() && has_migrated(ctx) {
                            format!(
                                "piton rollback {environment} --database goes back before the migration, "
                            )
                        } else {
                            String::new()
                        };
                        format!("holds: {why}; {database}piton continue {environment} goes on all the same")
                    } else {
                        format!("{} left", format_duration(round(left)))
                    };
                    let departs =
                        note.gate.departs().map_or_else(String::new, |departs| format!(" · {departs}"));
                    ctx.say(&format!("{state} · {}{departs}", note.gate.summary()));
                }
            }
            if noted.elapsed() > NOTE {
                // On a full disk the judging goes on: the next note may come through, and a verdict needs none.
                let _ = ctx.note(&note);
                noted = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Gives the release its share, which it may have already; returns what is judged on and how long the proxy took, in
    /// milliseconds.
    async fn begin(&self, ctx: &Ctx<'_, '_>) -> Result<(Note, f64), Fault> {
        let mut client = client(ctx).await?;
        let stands = client.status().await.or_fault(no_answer)?.weights == self.weights();
        let seen = client.stats().await.or_fault(no_answer)?;
        let note = match ctx.noted().and_then(|note| serde_json::from_value::<Note>(note).ok()) {
            Some(note) if stands => note,
            // The traffic was sent back meanwhile: what was answered until then is judged, and the time since then does not count.
            Some(mut note) => {
                // What the other slot answered alone says nothing of a share.
                note.take_in(self.slot, Percent::FULL, seen);
                let judged = !ctx.forward && !self.length.is_zero();
                if let (true, Verdict::RollBack(why)) = (judged, note.gate.verdict(false)) {
                    return Err(Fault::verdict(why));
                }
                ctx.note(&note)?;
                note
            }
            None => {
                let note = Note { gate: self.gate(ctx), seen, served: Duration::ZERO, at: uptime() };
                ctx.note(&note)?;
                note
            }
        };
        if stands {
            return Ok((note, 0.0));
        }
        self.runs(ctx)?;
        let ordered = Instant::now();
        let switched = in_force(client.set_weights(self.weights()).await)?;
        let took = switched.map_or_else(|| ordered.elapsed(), |switched| switched.took);
        Ok((note, took.as_secs_f64() * 1000.0))
    }

    /// Refuses to send traffic to an app that does not run; to give up the way back has its own look.
    fn runs(&self, ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
        match ctx.plan.start() {
            Some(start) if !ctx.forward && !start.listens() => {
                Err(Fault::release(format!("{} does not run", start.place())))
            }
            _ => Ok(()),
        }
    }

    /// Takes the gate from the step before, or starts a new one.
    fn gate(&self, ctx: &Ctx<'_, '_>) -> Gate {
        let before = ctx.step_before().and_then(|step| ctx.outcome::<Outcome>(step));
        let length = ctx.plan.steps.iter().map(|planned| planned.step.judged_for()).sum();
        let mut gate = before.map_or_else(|| Gate::new(self.limits, length), |outcome| outcome.gate);
        gate.enter_step(self.share);
        gate
    }

    fn weights(&self) -> Weights {
        let share = self.share.basis_points();
        match self.slot {
            Slot::Green => Weights { green: share },
            Slot::Blue => Weights { green: Percent::FULL.basis_points() - share },
        }
    }

    /// Takes in what was answered since the last look, and the time since.
    async fn look(&self, ctx: &Ctx<'_, '_>, note: &mut Note) -> Result<(), Fault> {
        let stats = client(ctx).await?.stats().await.or_fault(no_answer)?;
        let time = note.take_in(self.slot, self.share, stats);
        note.served += time;
        Ok(())
    }
}

/// Journals once that the golden copy does not follow, and once that it does again.
///
/// On a full disk the judging goes on; the next look says it again.
fn tell(ctx: &Ctx<'_, '_>, standing: &Standing) {
    let (step, is_told) = (ctx.step.clone(), ctx.is_behind());
    let _ = match standing {
        Standing::Behind(why) if !is_told => ctx.append(&Event::Behind { step, why: why.clone() }),
        Standing::InStep if is_told => ctx.append(&Event::CaughtUp { step }),
        _ => Ok(()),
    };
}

/// Tells whether the release has applied a migration.
fn has_migrated(ctx: &Ctx<'_, '_>) -> bool {
    ctx.outcome::<super::migrate::Outcome>("migrate").is_some_and(|outcome| !outcome.migrations.is_empty())
}

/// Says what is wrong with the answers of the release that serves again; `None` where a short look sees nothing.
pub(super) async fn serving_fails(ctx: &Ctx<'_, '_>) -> Result<Option<String>, Fault> {
    let Some(live) = &ctx.plan.live else { return Ok(None) };
    let before = client(ctx).await?.stats().await.or_fault(no_answer)?;
    let began = Instant::now();
    while began.elapsed() < SHORT_LOOK {
        tokio::time::sleep(LOOK).await;
        let window = client(ctx).await?.stats().await.or_fault(no_answer)?.since(&before);
        // It may have been slow before.
        let mut gate = Gate::new(config::Gate { p95: None, ..ctx.settings().gate }, SHORT_LOOK);
        gate.see(began.elapsed(), &Answers::from(&window.slots[live.start.slot]), &Answers::default());
        if let Verdict::RollBack(why) = gate.verdict(false) {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

/// Returns how long the machine has been up and awake: a clock that nobody sets.
fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn round(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_slot_ends_after_the_switch_ends_no_watch() {
        let verdict = |share: &str| {
            let limits = config::Gate { errors: "20%".parse().unwrap(), p95: None };
            let (gate, at) = (Gate::new(limits, Duration::ZERO), uptime());
            let mut note = Note { gate, seen: Stats::default(), served: Duration::ZERO, at };
            let mut stats = Stats::default();
            stats.slots.green.status.success = 1000;
            (stats.slots.blue.status.server_error, stats.slots.blue.bad) = (40, 40);
            let share = share.parse().unwrap();
            note.gate.enter_step(share);
            note.take_in(Slot::Green, share, stats);
            note.gate.verdict(false)
        };
        assert!(matches!(verdict("50%"), Verdict::Continue(_)));
        assert!(matches!(verdict("100%"), Verdict::Hold(_)));
    }
}
