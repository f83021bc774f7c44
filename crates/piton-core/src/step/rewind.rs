//! The way back of a migration: the golden copy takes the live database's place.

use std::collections::BTreeMap;
use std::time::Instant;

use piton_db::changes::{self, Expected, Kind, Presence, TableChange};
use piton_db::fingerprint::Structure;
use piton_db::identity::Purpose;
use piton_db::replay::{self, Aside, Replay};
use piton_db::swap::{self, SwapState};
use piton_db::{Database, DbError, brought, facts, made, replication};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Ctx;
use super::capture::captured;
use super::follow::{CaughtUp, Followed};
use super::hold::{self, Hold, PART};
use super::rehearse::Rehearsed;
use crate::fault::{self, Fault, OrFault};
use crate::journal::Event;
use crate::plan::{Job, Phase};
use crate::words;

/// A migrated database and the golden copy that is its way back.
pub(super) struct Rewind<'a, 'c, 'w> {
    pub(super) ctx: &'a Ctx<'c, 'w>,
    pub(super) live: &'a Database,
    pub(super) golden: &'a str,
    /// What the live database is called after it.
    pub(super) replaced: &'a str,
}

/// What would leave with the live database.
struct Leaving {
    /// Or why it could not be counted.
    written: Result<Vec<TableChange>, Fault>,
    /// The objects that are neither as in the golden copy nor as the migration makes them.
    foreign: Vec<String>,
    /// The tables of which the migration changes or removes what was there.
    overwritten: Vec<String>,
    /// The logical replication that is bound to the database, in words.
    bound: Vec<String>,
    /// The state of what a freeze cannot hold still, read before the rest: the structure, the sequences, the large objects.
    unfrozen: String,
    /// Why later writes do not go along, where something has kept them.
    not_followed: Option<String>,
}

impl Leaving {
    /// Says why later writes do not go along.
    fn not_carried(&self) -> Option<String> {
        self.not_followed.as_ref().map(|why| format!("later writes cannot be carried back: {why}"))
    }

    /// Says what besides rows would be lost.
    fn what_stands_in_the_way(&self) -> Option<String> {
        if let Some(stays) = stays_behind(&self.bound) {
            return Some(stays);
        }
        let object = self.foreign.first()?;
        Some(match self.foreign.len() {
            1 => format!("somebody changed {object}"),
            more => format!("somebody changed {object} and {} more", more - 1),
        })
    }
}

/// What is known of a swap before it, for what has to be done behind it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Swapping {
    /// The state of the database that goes, where it was sure that nothing is lost with it.
    #[serde(default)]
    lossless: Option<String>,
    /// What the outcome tells.
    #[serde(default)]
    known: Map<String, Value>,
}

impl Swapping {
    fn new(lossless: Option<String>, known: Value) -> Self {
        let known = match known {
            Value::Object(known) => known,
            _ => Map::new(),
        };
        Self { lossless, known }
    }
}

/// What became of a way back with every later write.
enum Carry {
    /// This, whether the databases have changed places or not.
    Over(Value),
    /// There is none; for this reason, where it has come about meanwhile.
    Never(Option<String>),
}

/// What became of an attempt to swap with every later write.
enum Carried {
    /// The databases have changed places.
    Back(Swapping),
    /// The migration stays.
    Kept(String),
    /// It could not be done, nor can it ever be.
    Never(String),
}

/// What became of an attempt.
enum Attempt {
    /// The databases have changed places.
    Swapped(Swapping),
    /// The migration stays.
    Kept { leaving: Leaving, why: String },
}

impl Rewind<'_, '_, '_> {
    /// Tells whether the golden copy has taken its place.
    pub(super) async fn is_done(&self) -> Result<bool, Fault> {
        swapped(self.live, self.golden, self.replaced).await
    }

    /// Tells whether a killed attempt may have done all of it: what was replaced without a loss is dropped.
    pub(super) async fn may_be_over(&self, swapping: &Swapping) -> Result<bool, Fault> {
        let server = || format!("{} cannot be asked", self.live.server());
        // It was there when that was noted.
        let golden = self.live.with_name(self.golden);
        Ok(swapping.lossless.is_some() && !facts::exists(&golden).await.or_fault(server)?)
    }

    /// Puts the golden copy into its place: when a person asks for it, or when nothing that somebody wrote or made is lost by it.
    ///
    /// Otherwise the migration stays, and the release before runs on the new structure: no write is lost without a word. Before
    /// a swap, `note` is given what [`Rewind::settle`] wants to know of it.
    pub(super) async fn run(&self, note: impl Fn(&Swapping) -> Result<(), Fault>) -> Result<Value, Fault> {
        let golden = self.live.with_name(self.golden);
        if !facts::exists(&golden).await.or_fault(|| format!("{} cannot be asked", golden.server()))? {
            return self.without_golden();
        }
        let not_followed = match Followed::of(self.ctx, self.live, self.golden) {
            Some(followed) => match Box::pin(self.carry_back(&followed, &note)).await? {
                Carry::Over(outcome) => return Ok(outcome),
                Carry::Never(why) => why,
            },
            None => self.refused_to_follow(),
        };
        replay::give_up(&golden).await.or_fault(|| "the notes of a replay cannot be removed".into())?;
        let began = Instant::now();
        let leaving = Leaving { not_followed, ..self.look().await? };
        if self.asks() {
            self.say_what_leaves(&leaving)?;
        }
        if self.ctx.undecided {
            let fault = undecided(&self.ctx.plan.environment);
            return Err(leaving.not_carried().into_iter().fold(fault, Fault::because));
        }
        if !self.ctx.database {
            if let Some(why) = self.obstacle(&leaving) {
                return Ok(kept(&leaving, &why));
            }
            if began.elapsed() > PART {
                return Ok(kept(&leaving, TOO_LONG));
            }
        }
        let mut hold = Hold::new(self.ctx).await?;
        let attempt = self.attempt(&mut hold, leaving, &note).await;
        let lapsed = hold.end().await?;
        match attempt? {
            Attempt::Kept { leaving, why } => Ok(kept(&leaving, &why)),
            Attempt::Swapped(swapping) => self.settle(swapping, Some(lapsed), &note).await,
        }
    }

    /// Does what is left to do behind a swap, a killed attempt's as well, and tells what came of it all; it may be done twice.
    pub(super) async fn settle(
        &self,
        mut swapping: Swapping,
        lapsed: Option<bool>,
        note: &impl Fn(&Swapping) -> Result<(), Fault>,
    ) -> Result<Value, Fault> {
        if let Some(lapsed) = lapsed {
            swapping.known.insert("hold_lapsed".into(), json!(lapsed));
        }
        let replaced = self.live.with_name(self.replaced);
        if !facts::exists(&replaced).await.or_fault(|| format!("{} cannot be asked", replaced.server()))? {
            // A killed attempt was done with it all.
            return Ok(told(swapping, None));
        }
        if let Some((file, rescued)) = super::rescue::save(self.ctx, self.live, &replaced).await? {
            let told = json!({ "file": file, "rows": rescued.rows, "values": rescued.values });
            swapping.known.insert("rescued".into(), told);
            // Once the replay's notes are gone, nobody can tell it again.
            note(&swapping)?;
        }
        if !swapping.known.contains_key(CARRIED_BACK) {
            super::rescue::put_back(self.ctx)?;
        }
        replay::give_up(self.live).await.or_fault(|| "the notes of a replay cannot be removed".into())?;
        // A slot would keep its database from being dropped; triggers would note for nobody.
        if let Some(captured) = captured(self.ctx) {
            captured.source.let_go(&replaced).await.or_fault(super::capture::not_let_go)?;
        }
        let kept = self.put_away(swapping.lossless.as_deref()).await?;
        if let (Some(_), Some(captured)) = (kept, captured(self.ctx)) {
            // Whoever puts it back some day wants its log as it was.
            piton_db::capture::tell_whole(&replaced, &captured.whole, false)
                .await
                .or_fault(super::capture::not_let_go)?;
        }
        Ok(told(swapping, kept))
    }

    /// Says why the rehearsal has refused to let later writes go along, where something keeps them.
    fn refused_to_follow(&self) -> Option<String> {
        let offer = captured(self.ctx).and(self.ctx.outcome::<Rehearsed>("rehearse"))?.offer?;
        offer.obstacles.into_iter().next()
    }

    /// Puts the golden copy into its place with every later write, where it can follow.
    ///
    /// It does so by itself: nobody's write is lost by it. A row that the old structure does not hold is for a person to say.
    async fn carry_back(
        &self,
        followed: &Followed,
        note: &impl Fn(&Swapping) -> Result<(), Fault>,
    ) -> Result<Carry, Fault> {
        let unreadable = || "the golden copy cannot be followed up".to_owned();
        if !replay::is_prepared(&followed.golden).await.or_fault(unreadable)? {
            return Ok(Carry::Never(None));
        }
        let replay = match followed.catch_up(self.ctx).await {
            Ok(CaughtUp::Ready(replay)) => replay,
            Ok(CaughtUp::TooMuch) => {
                let why = "writes come as fast as they can be carried back, or faster";
                return self.stays(why.into()).map(Carry::Over);
            }
            Ok(CaughtUp::Never(why)) => return Ok(self.never(why)),
            Err(error) => {
                let environment = &self.ctx.plan.environment;
                let fault = Fault::surroundings(unreadable()).caused_by(&error);
                return Err(fault.hint(format!(
                    "piton resume {environment} tries it again, piton rollback {environment} leaves the migration"
                )));
            }
        };
        let leaving =
            replay::as_before(&followed.golden, self.look_at_objects()).await.or_fault(unreadable)??;
        if let (Some(why), false) = (leaving.what_stands_in_the_way(), self.ctx.database) {
            return self.stays(why).map(Carry::Over);
        }
        let mut hold = Hold::new(self.ctx).await?;
        let attempt = Box::pin(self.swap_followed(&mut hold, followed, *replay, &leaving, note)).await;
        let lapsed = hold.end().await?;
        Ok(Carry::Over(match attempt? {
            Carried::Kept(why) => self.stays(why)?,
            Carried::Never(why) => return Ok(self.never(why)),
            Carried::Back(swapping) => self.settle(swapping, Some(lapsed), note).await?,
        }))
    }

    fn never(&self, why: String) -> Carry {
        self.ctx.say(&format!("later writes cannot be carried back: {why}"));
        Carry::Never(Some(why))
    }

    /// Lets the migration stay where nobody has asked for the database; whoever has is told why, and may say it again.
    fn stays(&self, why: String) -> Result<Value, Fault> {
        let environment = &self.ctx.plan.environment;
        if self.ctx.database {
            let again = format!(
                "piton resume {environment} tries it again, piton rollback {environment} leaves the migration"
            );
            return Err(Fault::surroundings("the golden copy could not take its place")
                .because(why)
                .hint(again));
        }
        match self.ctx.undecided {
            true => Err(undecided(environment).because(why)),
            false => Ok(json!({ "kept": true, "why": why })),
        }
    }

    /// Carries the last writes back while requests wait and nobody writes, and lets the databases change places.
    async fn swap_followed(
        &self,
        hold: &mut Hold,
        followed: &Followed,
        mut replay: Replay,
        leaving: &Leaving,
        note: &impl Fn(&Swapping) -> Result<(), Fault>,
    ) -> Result<Carried, Fault> {
        let cannot = || "the last writes cannot be carried back".to_owned();
        // What makes the golden copy whole locks its tables, too, and a copy that was just restored is vacuumed for long.
        let was_vacuumed = changes::send_autovacuum_away(&followed.golden).await.or_fault(cannot)?;
        if hold::get_ready_to_freeze(self.live).await? || was_vacuumed {
            // Meanwhile everybody has written on.
            match followed.to_now(&mut replay).await {
                Err(DbError::Replay(why)) => return Ok(Carried::Never(why)),
                followed => followed.or_fault(cannot)?,
            }
        }
        let cut_off = hold.begin().await?;
        if cut_off > 0 && !self.ctx.database {
            return Ok(Carried::Kept(format!("{} did not end in time", words::counted(cut_off, "request"))));
        }
        let Some(frozen) = hold::freeze(self.live).await? else {
            return Ok(Carried::Kept("somebody writes to the database past the proxy".into()));
        };
        let last = async {
            followed.to_now(&mut replay).await?;
            let objects = changes::large_objects_apart(&followed.golden, self.live).await?;
            Ok::<_, DbError>((replay.finish().await?, objects))
        };
        let (ready, objects) = match tokio::time::timeout(PART, last).await {
            Ok(Err(DbError::Replay(why))) => return Ok(Carried::Never(why)),
            Ok(ready) => ready.or_fault(cannot)?,
            Err(_) => {
                return Ok(Carried::Kept(
                    "to carry the last writes back takes longer than requests may wait".into(),
                ));
            }
        };
        if objects > 0 && !self.ctx.database {
            let objects = words::counted(objects, "large object");
            return Ok(Carried::Kept(format!("{objects} written since the backup: no log tells of them")));
        }
        if let (Some(row), false) = (ready.finished.aside.first(), self.ctx.database) {
            let count = ready.finished.aside.len() as u64;
            return Ok(Carried::Kept(format!(
                "{} not fit the old structure as written since; of {}: {}",
                words::doing(count, "row", "does", "do"),
                row.table,
                row.why
            )));
        }
        let lossless = ready.finished.written == 0 && leaving.foreign.is_empty();
        let known = json!({
            CARRIED_BACK: ready.finished.written,
            "aside": ready.finished.aside,
            "cut_off": cut_off,
            "bound": leaving.bound,
        });
        let swapping = Swapping::new(lossless.then(|| leaving.unfrozen.clone()), known);
        note(&swapping)?;
        // What came before has used up a part of the hold.
        hold.begin().await?;
        frozen.check().await.or_fault(|| "the database did not keep still".into())?;
        ready.commit().await.or_fault(cannot)?;
        self.swap().await?;
        Ok(Carried::Back(swapping))
    }

    /// Asks a person, for this reason, with the count of what would leave in sight.
    pub(super) async fn ask(&self, why: String) -> Result<Value, Fault> {
        let leaving = self.look().await?;
        self.ctx.leaves_the_database_open()?;
        self.say_what_leaves(&leaving)?;
        Err(undecided(&self.ctx.plan.environment).because(why))
    }

    /// Lets the databases change places while requests wait; unless a person has said yes, after a last look.
    async fn attempt(
        &self,
        hold: &mut Hold,
        leaving: Leaving,
        note: &impl Fn(&Swapping) -> Result<(), Fault>,
    ) -> Result<Attempt, Fault> {
        let swapping = |leaving: Leaving, lossless: bool, cut_off: u64| {
            let known = json!({
                "written": leaving.written.ok(),
                "cut_off": cut_off,
                "bound": leaving.bound,
                "not_followed": leaving.not_followed,
            });
            Swapping::new(lossless.then_some(leaving.unfrozen), known)
        };
        let under_way = |left: u64| format!("{} did not end in time", words::counted(left, "request"));
        if !self.ctx.database {
            hold::get_ready_to_freeze(self.live).await?;
        }
        let cut_off = hold.begin().await?;
        if self.ctx.database {
            let swapping = swapping(leaving, false, cut_off);
            note(&swapping)?;
            self.swap().await?;
            return Ok(Attempt::Swapped(swapping));
        }
        if cut_off > 0 {
            return Ok(Attempt::Kept { leaving, why: under_way(cut_off) });
        }
        // Whoever writes past the proxy waits from here until the swap.
        let Some(frozen) = hold::freeze(self.live).await? else {
            return Ok(Attempt::Kept {
                leaving,
                why: "somebody writes to the database past the proxy".into(),
            });
        };
        // What came in between the first look and the hold counts, too.
        let not_followed = leaving.not_followed.clone();
        let leaving = match tokio::time::timeout(PART, self.look()).await {
            Ok(look) => Leaving { not_followed, ..look? },
            Err(_) => return Ok(Attempt::Kept { leaving, why: TOO_LONG.into() }),
        };
        if let Some(why) = self.obstacle(&leaving) {
            return Ok(Attempt::Kept { leaving, why });
        }
        // The looks have used up a part of the hold: the swap has a whole one.
        let cut_off = hold.begin().await?;
        if cut_off > 0 {
            return Ok(Attempt::Kept { leaving, why: under_way(cut_off) });
        }
        let swapping = swapping(leaving, true, cut_off);
        note(&swapping)?;
        frozen.check().await.or_fault(|| "the database did not keep still".into())?;
        self.swap().await?;
        Ok(Attempt::Swapped(swapping))
    }

    async fn swap(&self) -> Result<(), Fault> {
        swap::swap(self.live, self.golden, self.replaced)
            .await
            .or_fault(|| "the databases cannot change places".into())?;
        Hold::let_recover(self.ctx).await;
        Ok(())
    }

    /// Looks what would leave.
    async fn look(&self) -> Result<Leaving, Fault> {
        let golden = self.live.with_name(self.golden);
        let leaving = self.look_at_objects().await?;
        let expected = self.ctx.outcome::<Rehearsed>("rehearse").and_then(|rehearsed| rehearsed.expected);
        let written = written_since(&golden, self.live, expected.as_ref()).await;
        // A person decides, or it is decided without: what somebody made need not even be readable.
        let written = if leaving.foreign.is_empty() && !self.asks() { Ok(written?) } else { written };
        let overwritten = expected.map_or_else(Vec::new, |expected| expected.overwritten().to_vec());
        Ok(Leaving { written, overwritten, ..leaving })
    }

    /// Looks what would leave besides rows.
    async fn look_at_objects(&self) -> Result<Leaving, Fault> {
        let golden = self.live.with_name(self.golden);
        let (unfrozen, structure) = unfrozen(self.live).await?;
        let own = self.ctx.outcome::<Rehearsed>("rehearse").map_or_else(Default::default, |one| one.changed);
        let changes = structure_of(&golden).await?.changes_to(&structure);
        // The migration's own doing is what the rehearsal ended with; another definition of the same object is somebody's.
        let is_own =
            |object: &str| own.get(object).is_some_and(|end| end.as_ref() == structure.0.get(object));
        let objects = changes.iter().map(|change| change.object().to_owned());
        let foreign: Vec<String> = objects.filter(|object| !is_own(object)).collect();
        let bound = bound(self.live).await?;
        let (written, overwritten) = (Ok(Vec::new()), Vec::new());
        Ok(Leaving { written, foreign, overwritten, bound, unfrozen, not_followed: None })
    }

    /// Looks once more and says what could be lost; for a database that nobody is on any more.
    pub(super) async fn what_is_lost(&self) -> Option<String> {
        match self.look().await {
            // What cannot be looked at may be anything.
            Err(fault) => Some(fault.what),
            Ok(Leaving { written: Err(fault), .. }) => Some(fault.what),
            Ok(leaving) => self.obstacle(&leaving),
        }
    }

    /// Tells whether a person asks for the database to go back, or is asked about it.
    fn asks(&self) -> bool {
        self.ctx.database || self.ctx.undecided
    }

    /// Journals, before anything of it leaves, how many rows were written since the backup and in which tables.
    fn say_what_leaves(&self, leaving: &Leaving) -> Result<(), Fault> {
        let (leaving, unknown) = match &leaving.written {
            Ok(written) => (written.clone(), None),
            Err(fault) => (Vec::new(), Some(fault.why.join(": "))),
        };
        self.ctx.append(&Event::Counted { step: self.ctx.step.clone(), leaving, unknown })
    }

    /// Says what could be lost; nothing when it is sure that nothing is.
    ///
    /// A release that never had traffic cannot have written into a column that its migration added: its values are the
    /// migration's own then.
    fn obstacle(&self, leaving: &Leaving) -> Option<String> {
        if let Some(stays) = leaving.what_stands_in_the_way() {
            return Some(stays);
        }
        if let Some(table) = leaving.overwritten.first() {
            let changes = format!("it changes or removes what is in {table}");
            return Some(match leaving.not_followed {
                // Everything that was written there is known, and why it does not go along is told besides.
                Some(_) => changes,
                None => {
                    format!("{changes}; what was written there since the backup cannot be seen any more")
                }
            });
        }
        // A clone has no shift: the app that serves is on it from the first moment.
        let had_traffic =
            self.ctx.began(Phase::Shift) || self.ctx.plan.job == Job::Clone && self.ctx.plan.live.is_some();
        let written = leaving.written.iter().flatten();
        let (tables, others): (Vec<_>, Vec<_>) = written.partition(|change| change.kind == Kind::Table);
        let rows: u64 = tables.iter().map(|table| table.only_in_live.max(table.only_in_golden)).sum();
        if rows > 0 {
            return Some(format!("written since the backup: {}", words::counted(rows, "row")));
        }
        if let Some(change) = others.first() {
            return Some(format!("written since the backup: {}", change.table));
        }
        if let Some(gone) =
            tables.iter().find(|table| table.presence == Presence::Golden || !table.gone_columns.is_empty())
        {
            return Some(format!("somebody removed {} or columns of it", gone.table));
        }
        let grown = tables.iter().find(|table| !table.new_columns.is_empty())?;
        had_traffic.then(|| format!("the new columns of {} may have been written to", grown.table))
    }

    /// Drops the replaced database when nothing is in it that is not in the live one but the migration; returns its name when
    /// it is kept.
    ///
    /// `lossless` is the state in which nothing was found that would be lost: no row of a table was written until the swap, but
    /// a table may have been made meanwhile, a sequence advanced, a large object written.
    async fn put_away(&self, lossless: Option<&str>) -> Result<Option<&str>, Fault> {
        let replaced = self.live.with_name(self.replaced);
        if self.ctx.database
            || lossless != Some(unfrozen(&replaced).await?.0.as_str())
            || holds_more(&replaced).await?
        {
            return Ok(Some(self.replaced));
        }
        made::drop_replaced(&replaced, &super::label(self.ctx, Purpose::Replaced))
            .await
            .or_fault(|| format!("{} cannot be dropped", self.replaced))?;
        Ok(None)
    }

    /// The way back was dropped by somebody else: the migration stays, and a person who asked for more is told.
    fn without_golden(&self) -> Result<Value, Fault> {
        let gone = format!("the golden copy {} is gone; Piton did not drop it", self.golden);
        if !self.ctx.database {
            return Ok(json!({ "kept": true, "why": gone }));
        }
        Err(Fault::surroundings("the database cannot go back").because(gone).hint(format!(
            "piton abort {} undoes the rest and leaves the database as it is",
            self.ctx.plan.environment
        )))
    }
}

/// Tells what came of a swap, and which database is kept.
fn told(swapping: Swapping, kept: Option<&str>) -> Value {
    let mut outcome = Value::Object(swapping.known);
    if let Some(aside) = outcome.get("aside").and_then(|aside| Vec::<Aside>::deserialize(aside).ok()) {
        let file = outcome.get("rescued").and_then(|rescued| rescued.get("file")).cloned();
        outcome["older"] = older(&aside, &file.unwrap_or_default());
    }
    outcome["rewound"] = json!(true);
    outcome["replaced"] = json!(kept);
    outcome
}

/// Counts by table what is not in the live database as it was written last; that is in the file.
fn older(aside: &[Aside], file: &Value) -> Value {
    let mut tables: BTreeMap<&str, u64> = BTreeMap::new();
    for row in aside {
        *tables.entry(&row.table).or_default() += 1;
    }
    tables.iter().map(|(table, rows)| json!({ "table": table, "rows": rows, "file": file })).collect()
}

/// What the outcome counts where later writes were carried back.
const CARRIED_BACK: &str = "carried_back";

const TOO_LONG: &str = "to look for what was written takes longer than requests may wait";

fn kept(leaving: &Leaving, why: &str) -> Value {
    let (written, not_followed) = (leaving.written.as_ref().ok(), &leaving.not_followed);
    json!({ "kept": true, "why": why, "written": written, "not_followed": not_followed })
}

/// Lets the migration wait for a person: everything after it has gone back by now.
fn undecided(environment: &str) -> Fault {
    Fault {
        kind: fault::Kind::Undecided,
        ..Fault::surroundings("nobody has said yet whether the database goes back")
    }
    .hint(words_to_say(environment))
}

/// Says what lets a release go on that waits for a word on its database.
pub(crate) fn words_to_say(environment: &str) -> String {
    format!(
        "piton rollback {environment} --database --yes puts it back, piton rollback {environment} leaves it"
    )
}

async fn structure_of(database: &Database) -> Result<Structure, Fault> {
    Structure::of(database).await.or_fault(|| format!("the structure of {database} cannot be read"))
}

/// Lists the logical replication that is bound to a database.
pub(super) async fn bound(database: &Database) -> Result<Vec<String>, Fault> {
    let unreadable = || format!("the logical replication of {database} cannot be read");
    let client = database.connect().await.or_fault(unreadable)?;
    replication::bound(&client).await.or_fault(unreadable)
}

/// Says what of it would stay behind, if there is any.
pub(super) fn stays_behind(bound: &[String]) -> Option<String> {
    bound.first().map(|bound| format!("{bound} would stay with the database that goes"))
}

/// Tells whether a database holds what no copy of it has: slots, with what their consumers have not read yet, and rows that an
/// extension keeps in its own tables.
async fn holds_more(database: &Database) -> Result<bool, Fault> {
    let unreadable = || format!("what no copy has of {database} cannot be read");
    let client = database.connect().await.or_fault(unreadable)?;
    let filled = brought::filled(&client).await.or_fault(unreadable)?;
    Ok(!filled.is_empty() || !replication::bound(&client).await.or_fault(unreadable)?.is_empty())
}

/// Reads what a freeze cannot hold still.
async fn unfrozen(database: &Database) -> Result<(String, Structure), Fault> {
    let loose = changes::unfrozen(database).await;
    let loose = loose.or_fault(|| format!("the sequences and large objects of {database} cannot be read"))?;
    let structure = structure_of(database).await?;
    Ok((format!("{} {loose}", structure.hash()), structure))
}

/// Lists the tables whose rows differ from the golden copy's.
///
/// What stands as the rehearsal has left it is nobody's writing.
pub(super) async fn written_since(
    golden: &Database,
    live: &Database,
    expected: Option<&Expected>,
) -> Result<Vec<TableChange>, Fault> {
    changes::since(golden, live, expected, &mut |_| {})
        .await
        .or_fault(|| "what was written since the backup cannot be counted".into())
}

/// Tells whether `replacement` has taken the place of `live`.
pub(super) async fn swapped(live: &Database, replacement: &str, replaced: &str) -> Result<bool, Fault> {
    let server = || format!("{} cannot be asked", live.server());
    // Before the replacement is made there is nothing that could have been swapped.
    if !facts::exists(&live.with_name(replaced)).await.or_fault(server)? {
        return Ok(false);
    }
    let state = swap::observe(live, replacement, replaced).await;
    Ok(state.or_fault(|| "the databases are neither as before nor swapped".into())? == SwapState::Done)
}
