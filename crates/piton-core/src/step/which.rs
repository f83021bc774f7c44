//! Which databases a release works on, whatever their URLs say.

use piton_db::identity::{self, Place};
use serde::{Deserialize, Serialize};

use super::{Ctx, Step, World, database_of};
use crate::config::Settings;
use crate::fault::{Fault, Kind};

/// The step whose outcome says which databases the release works on.
const GUARD: &str = "guard";

/// What the guards leave behind for the steps that follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Guarded {
    /// How many guards let it pass.
    pub guards: usize,
    /// The environment's own database, and the one that its data come from.
    pub databases: Vec<Known>,
}

/// A database as the guards found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The environment whose it is.
    environment: String,
    /// Where it was reached, for people.
    at: String,
    /// Its name.
    name: String,
    /// The number that initdb gave the server's cluster.
    system_identifier: String,
    /// Its oid; `None` when it was still to be made.
    oid: Option<u32>,
}

/// Looks at the databases that a release works on.
pub(super) async fn look(world: &World) -> Result<Vec<Known>, Fault> {
    let mut known = Vec::new();
    for settings in std::iter::once(&world.settings).chain(&world.from) {
        if settings.database.is_none() {
            continue;
        }
        let (at, name, place) = find(settings).await?;
        known.push(Known {
            environment: settings.environment.clone(),
            at,
            name,
            system_identifier: place.system_identifier,
            oid: place.oid,
        });
    }
    Ok(known)
}

/// Looks what stands where an environment's URL leads to; returns where that is, too.
async fn find(settings: &Settings) -> Result<(String, String, Place), Fault> {
    let database = database_of(settings)?;
    let at = format!("{}/{}", database.server(), database.dbname);
    let place = identity::locate(&database).await.map_err(|error| {
        Fault::surroundings(format!("{}'s database cannot be reached", settings.environment))
            .because(at.clone())
            .caused_by(&error)
            .hint(format!("start the database, then piton resume {}", settings.environment))
    })?;
    Ok((at, database.dbname, place))
}

impl Known {
    /// Tells whether this database, or the one that a step of a release has put in its place, stands there.
    fn is_at(&self, place: &Place, name: &str, app: &str) -> bool {
        if self.system_identifier != place.system_identifier {
            return false;
        }
        match (place.purpose(app, &self.environment), place.oid) {
            // A swap exchanges the numbers, and leaves the environment's own mark on what it puts in place.
            (Some(purpose), _) => purpose.is_environments_own(),
            (None, Some(oid)) if self.oid.is_some() => self.oid == Some(oid),
            // Still to be made, or dropped by whomever: whatever a step wants to find there it looks for itself.
            (None, _) => self.name == name,
        }
    }

    /// Makes sure that the environment's URL leads to this database still.
    ///
    /// A refusal when it leads to another one; a fault of the surroundings when that cannot be told.
    async fn still(&self, world: &World) -> Result<(), Fault> {
        let settings = std::iter::once(&world.settings).chain(&world.from);
        let mut settings = settings.filter(|settings| settings.environment == self.environment);
        let Some(settings) = settings.next() else { return Ok(()) };
        let (at, name, place) = find(settings).await?;
        if self.is_at(&place, &name, &settings.app) {
            return Ok(());
        }
        let whose = &self.environment;
        let number = |oid: Option<u32>| oid.map_or_else(|| "none".to_owned(), |oid| oid.to_string());
        let told = |system_identifier: &str, oid: Option<u32>| {
            format!("database {} on server {system_identifier}", number(oid))
        };
        let environment = &world.settings.environment;
        let way_on = format!("piton resume {environment} or piton abort {environment}");
        Err(Fault::refused(format!("{whose} names another database than when the release began"))
            .because(format!("then {}: {}", self.at, told(&self.system_identifier, self.oid)))
            .because(format!("now {at}: {}", told(&place.system_identifier, place.oid)))
            .hint(format!("put DATABASE_URL of {whose} back as it was, then {way_on}; a server that is gone keeps nobody from sending the traffic back")))
    }
}

/// Refuses to carry on a release whose settings lead to other databases than those that its guards looked at.
///
/// `left` are the steps that are still to be done, or with `back` to be undone. A database that cannot be reached is no reason
/// to leave the traffic where it is: the steps that need it look again.
pub(crate) async fn still_the_same<'s>(
    world: &World,
    outcome: &serde_json::Value,
    left: impl Iterator<Item = &'s Step>,
    back: bool,
) -> Result<(), Fault> {
    let Ok(guarded) = Guarded::deserialize(outcome) else { return Ok(()) };
    let left: Vec<&Step> = left.collect();
    for known in &guarded.databases {
        let is_own = known.environment == world.settings.environment;
        let is_needed = match (is_own, back) {
            // The app works on it whatever steps are left.
            (true, false) => true,
            (true, true) => left.iter().any(|step| step.works_on_the_database(true)),
            (false, _) => !back && left.iter().any(|step| matches!(step, Step::Backup(_))),
        };
        if !is_needed {
            continue;
        }
        match known.still(world).await {
            Err(fault) if fault.kind == Kind::Surroundings => {
                tracing::debug!(%fault, "the steps that need it will look");
            }
            other => other?,
        }
    }
    Ok(())
}

impl Step {
    /// Tells whether acting, or with `back` undoing, works on the environment's database, or for a backup on its source.
    fn works_on_the_database(&self, back: bool) -> bool {
        match self {
            // The undo takes away nothing but the mark that this release has set, wherever that is.
            Step::Mark(_) | Step::Backup(_) => !back,
            Step::Migrate(migrate) => !back || migrate.undo,
            Step::Capture(_)
            | Step::EndCapture(_)
            | Step::LoadRescued(_)
            | Step::Proof(_)
            | Step::Rehearse(_)
            | Step::Fresh(_)
            | Step::CloneData(_)
            | Step::MigrateCopy(_)
            | Step::CountLoss(_)
            | Step::PutInPlace(_)
            | Step::DropCopies(_) => true,
            Step::Guard(_)
            | Step::Build(_)
            | Step::Fetch(_)
            | Step::Upload(_)
            | Step::StartSlot(_)
            | Step::Checks(_)
            | Step::Connect(_)
            | Step::Shift(_)
            | Step::Watch(_)
            | Step::StopSlot(_)
            | Step::Prune(_)
            | Step::Tidy(_)
            | Step::HandOver(_)
            | Step::Unpack(_) => false,
        }
    }

    /// Makes sure that the database that the step works on is the one that the guards looked at; otherwise the release stands.
    pub(crate) async fn finds_its_database(&self, ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
        if !self.works_on_the_database(ctx.back) {
            return Ok(());
        }
        let Some(guarded) = ctx.outcome::<Guarded>(GUARD) else { return Ok(()) };
        let whose = match self {
            Step::Backup(backup) => backup.from.as_ref(),
            _ => None,
        };
        let whose = whose.unwrap_or(&ctx.plan.environment);
        for known in guarded.databases.iter().filter(|known| known.environment == *whose) {
            known.still(ctx.world).await.map_err(|fault| Fault { kind: Kind::Surroundings, ..fault })?;
        }
        Ok(())
    }
}
