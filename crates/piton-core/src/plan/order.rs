//! What is done for an environment besides a release: a backup, its proof, its restoration, fresh data, an older database in its place.

use std::path::{Path, PathBuf};

use piton_proxy::Slot;
use serde::{Deserialize, Serialize};

use super::{Draft, Names, Phase, Plan};
use crate::config::Settings;
use crate::dirs::Dirs;
use crate::facts::Facts;
use crate::step::{
    CountLoss, DropCopies, Fetch, Guard, HandOver, MigrateCopy, Older, Proof, PutInPlace, Site, Unpack,
};

/// What a run is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Brings a commit to an environment.
    #[default]
    Release,
    /// Takes a backup and proves it.
    Backup,
    /// Proves a backup once more.
    Proof,
    /// Restores a backup into a new database beside the live one.
    Restore,
    /// Makes an environment's database anew from the one that it takes its data from.
    Clone,
    /// Puts an older database in the live one's place.
    Rollback,
}

impl Job {
    /// Tells whether the environment's database is made anew by it, where that takes its data from another's.
    pub(crate) fn takes_data(self) -> bool {
        matches!(self, Self::Release | Self::Clone)
    }

    /// Tells whether it goes back wherever it cannot go on: what runs every night stands in nobody's way.
    pub(crate) fn goes_back_by_itself(self) -> bool {
        matches!(self, Self::Backup | Self::Proof)
    }

    /// Returns the subcommand that orders it.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Release => "deploy",
            Self::Backup => "backup",
            Self::Proof => "prove",
            Self::Restore => "restore",
            Self::Clone => "clone",
            Self::Rollback => "rollback",
        }
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Release => "release",
            Self::Backup => "backup",
            Self::Proof => "proof",
            Self::Restore => "restoration",
            Self::Clone => "clone",
            Self::Rollback => "rollback",
        })
    }
}

/// What a person orders besides a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A proved backup.
    Backup,
    /// The proof of a backup, which lies in this folder.
    Proof {
        /// The backup's folder.
        folder: PathBuf,
        /// Whether it is there, and not only in the store.
        here: bool,
        /// Whether it is of the environment's own data, and so kept in its store.
        own: bool,
    },
    /// A new database with a backup's contents.
    Restore {
        /// The backup's folder.
        folder: PathBuf,
        /// Whether it is there, and not only in the store.
        here: bool,
        /// The database's name.
        into: String,
        /// The new folder for the files of the backup, if they are wanted.
        files: Option<PathBuf>,
    },
    /// Fresh data.
    Clone,
    /// An older database in the live one's place.
    Rollback {
        /// Which.
        to: Older,
        /// Whether it is here, and not only in the store.
        here: bool,
        /// How much may be lost by it.
        accept: u64,
    },
}

impl Order {
    /// Returns what the run is for.
    pub fn job(&self) -> Job {
        match self {
            Self::Backup => Job::Backup,
            Self::Proof { .. } => Job::Proof,
            Self::Restore { .. } => Job::Restore,
            Self::Clone => Job::Clone,
            Self::Rollback { .. } => Job::Rollback,
        }
    }
}

/// Makes the plan of an order.
pub fn make(settings: &Settings, from: Option<&Settings>, facts: &Facts, order: &Order) -> Plan {
    let dirs = Dirs::new(&settings.root);
    let site = Site { settings, from, dirs: &dirs };
    let slot = facts.live.as_ref().map_or(Slot::Blue, |live| live.start.slot);
    let mut draft = Draft { settings, site, facts, dirs: &dirs, slot, steps: Vec::new() };
    let job = order.job();
    let (backup, files) = match order {
        Order::Proof { folder, .. } | Order::Rollback { to: Older::Backup { folder }, .. } => {
            (Some(folder.clone()), None)
        }
        Order::Restore { folder, files, .. } => (Some(folder.clone()), files.clone()),
        Order::Backup | Order::Clone | Order::Rollback { to: Older::Kept { .. }, .. } => (None, None),
    };
    // What is here needs no store, and what is taken is better than nothing where that is away.
    let needed = match order {
        Order::Proof { here, .. } | Order::Restore { here, .. } | Order::Rollback { here, .. } => !here,
        Order::Backup | Order::Clone => false,
    };
    let kept = match order {
        Order::Rollback { to: Older::Kept { name }, .. } => Some(name.clone()),
        _ => None,
    };
    let guard = Guard { commit: facts.commit.hash.clone(), slot, job, backup, files, kept, store: needed };
    draft.add("guard", Phase::Guard, guard);
    let names = Names::of(settings, &facts.id);
    match order {
        Order::Backup => {
            draft.anchor(&names, None);
            draft.anchor_settled(vec![names.golden]);
        }
        Order::Proof { folder, here, own } => {
            draft.fetch(folder, *here);
            let proof = Proof { folder: folder.clone(), golden: names.golden.clone() };
            draft.add("prove", Phase::Prove, proof);
            if *own {
                draft.upload(folder.clone());
            }
            draft.add("settle.copies", Phase::Settle, DropCopies { names: vec![names.golden] });
        }
        Order::Restore { folder, here, into, files } => {
            draft.fetch(folder, *here);
            draft.add("prove", Phase::Prove, Proof { folder: folder.clone(), golden: into.clone() });
            if let Some(into) = files {
                draft.add("prove.files", Phase::Prove, Unpack { folder: folder.clone(), into: into.clone() });
            }
            draft.add("settle.hand-over", Phase::Settle, HandOver { name: into.clone() });
        }
        Order::Clone => {
            // The app that serves goes on with the new database: its own migrations are applied.
            let app = facts.live.as_ref().map(|live| live.start.app.clone());
            draft.anchor_and_migration(&names, app.as_deref());
            draft.database_settled(names);
        }
        Order::Rollback { to, here, accept } => {
            if let Older::Backup { folder } = to {
                draft.fetch(folder, *here);
                let proof = Proof { folder: folder.clone(), golden: names.golden.clone() };
                draft.add("prove", Phase::Prove, proof);
            }
            draft.put_back(names, to, *accept);
        }
    }
    draft.plan(job)
}

impl Draft<'_> {
    /// Puts an older database in place, once it is known what is lost by that.
    fn put_back(&mut self, names: Names, to: &Older, accept: u64) {
        let older = match to {
            Older::Backup { .. } => names.golden,
            Older::Kept { name } => name.clone(),
        };
        let migrations = self.settings.database.as_ref().and_then(|database| database.migrations.as_ref());
        // The app that serves goes on with it.
        let app = self.facts.live.as_ref().map(|live| &live.start.app);
        if let (Some(migrations), Some(app)) = (migrations, app) {
            let migrations = migrations.within(app);
            let migrate = MigrateCopy { older: older.clone(), copy: names.rehearsal, migrations };
            self.add("prove.migrate", Phase::Prove, migrate);
        }
        let loss = CountLoss { to: to.clone(), older: older.clone(), accept };
        self.add("prove.loss", Phase::Prove, loss);
        let place =
            PutInPlace { to: to.clone(), older, replaced: names.replaced, aside: names.fresh, accept };
        self.add("migrate.swap", Phase::Migrate, place);
    }

    /// Fetches a backup that is only in the store.
    fn fetch(&mut self, folder: &Path, here: bool) {
        if !here {
            self.add("prove.fetch", Phase::Prove, Fetch { folder: folder.to_owned() });
        }
    }
}
