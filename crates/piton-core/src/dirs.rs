//! Where Piton keeps what, below the project's folder.

use std::path::{Path, PathBuf};

use piton_proxy::Slot;

use crate::config::Settings;
use crate::plan;

/// The folders below `.piton`.
#[derive(Clone, Debug)]
pub struct Dirs {
    base: PathBuf,
}

impl Dirs {
    /// Starts from the folder that holds `piton.toml`.
    pub fn new(root: &Path) -> Self {
        Self { base: root.join(".piton") }
    }

    /// Returns the file with the key of the app's masks.
    pub fn mask_key(&self) -> PathBuf {
        self.base.join("mask.key")
    }

    /// Returns the folder that everything else lies in.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Returns the journal's file.
    pub fn journal(&self) -> PathBuf {
        self.base.join("journal.db")
    }

    /// Returns the folder of all builds.
    pub fn builds(&self) -> PathBuf {
        self.base.join("artifacts")
    }

    /// Returns the folder of all releases' logs.
    pub fn all_logs(&self) -> PathBuf {
        self.base.join("logs")
    }

    /// Returns the folder in which a commit is built; every environment takes the same one.
    pub fn artifact(&self, commit: &str) -> PathBuf {
        self.builds().join(commit)
    }

    /// Returns the folder from which a release runs.
    pub fn slot(&self, environment: &str, slot: Slot, release: &str) -> PathBuf {
        self.environment(environment).join("slots").join(format!("{slot}-{}", plan::short_id(release)))
    }

    /// Returns the folder of an environment's proxy.
    pub fn proxy(&self, environment: &str) -> PathBuf {
        self.environment(environment).join("proxy")
    }

    /// Returns the folder of what migrations that went back had no place for.
    pub fn rescued(&self, environment: &str) -> PathBuf {
        self.environment(environment).join("rescued")
    }

    /// Returns the folder of what left an environment's database when an older one took its place.
    pub fn lost(&self, environment: &str) -> PathBuf {
        self.environment(environment).join("lost")
    }

    /// Returns the folder of a release's logs.
    pub fn logs(&self, release: &str) -> PathBuf {
        self.all_logs().join(release)
    }

    /// Returns the folder of an environment's backups; the one above its app's may be shared with other apps.
    pub fn backups(&self, settings: &Settings) -> PathBuf {
        settings.backup.to.join(&settings.app).join(&settings.environment)
    }

    fn environment(&self, environment: &str) -> PathBuf {
        self.base.join("environments").join(environment)
    }
}
