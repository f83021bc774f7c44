//! What the proxy knows again after a crash: `state.json`, replaced atomically.
//!
//! An order that cannot be saved, on a full disk perhaps, is in force all the same; while the file is older
//! than the orders, the proxy tries every second to replace it.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::control::{Maintenance, Status};
use crate::slot::{PerSlot, Weights};

const FILE: &str = "state.json";
const FORMAT: u32 = 1;

/// The orders in force. A hold is not among them: it ends with the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    /// Counts the changes of upstreams, weights and maintenance.
    pub(crate) generation: u64,
    pub(crate) weights: Weights,
    pub(crate) upstreams: PerSlot<Option<SocketAddr>>,
    pub(crate) maintenance: Option<Maintenance>,
}

/// Why the state file was not read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be read.
    #[error("cannot read the proxy's state file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file is not what the proxy writes.
    #[error(
        "the proxy's state file {} is damaged; \
         move it away to start with no upstreams and all traffic on blue",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A newer version wrote the file.
    #[error(
        "the proxy's state file {} has format {found}, this version knows formats up to {known}; \
         start the newer version",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
}

impl Default for State {
    fn default() -> State {
        State {
            format: FORMAT,
            generation: 0,
            weights: Weights::default(),
            upstreams: PerSlot::default(),
            maintenance: None,
        }
    }
}

impl State {
    /// Reads the state from `dir`; without a file, no upstreams and all traffic on blue.
    pub(crate) fn load(dir: &Path) -> Result<State, StateError> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        // The format is read alone first: a newer one may have another shape.
        let damaged = |source| StateError::Damaged { path: path.clone(), source };
        let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format > FORMAT {
            return Err(StateError::Newer { path, found: format, known: FORMAT });
        }
        serde_json::from_slice(&text).map_err(damaged)
    }

    /// Returns the orders that another proxy says are in force.
    pub(crate) fn of(status: Status) -> State {
        let Status { generation, weights, upstreams, maintenance, .. } = status;
        State { format: FORMAT, generation, weights, upstreams, maintenance }
    }

    /// Replaces the state in `dir`; when it returns, the new state outlives a power cut.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join("state.json.new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(FILE))?;
        fs::File::open(dir)?.sync_all()
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<State, StateError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        State::load(dir.path())
    }

    #[test]
    fn a_saved_state_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), State::default());
        let state = State {
            format: FORMAT,
            generation: 7,
            weights: Weights { green: 2500 },
            upstreams: PerSlot { blue: Some("127.0.0.1:3001".parse().unwrap()), green: None },
            maintenance: Some(Maintenance::default()),
        };
        state.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), state);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_newer_format_is_refused_whatever_its_shape() {
        let error = written(r#"{"format":2,"weights":"other"}"#).unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 2, known: 1, .. }), "{error}");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        for text in ["", "{", r#"{"format":1}"#, r#"{"format":1,"generation":"x"}"#, "\0\0\0"] {
            let error = written(text).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains(FILE));
        }
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        State::default().save(dir.path()).unwrap();
        let before = fs::read(dir.path().join(FILE)).unwrap();
        // A folder in the temporary file's place fails for root too.
        fs::create_dir(dir.path().join("state.json.new")).unwrap();
        State { generation: 9, ..State::default() }.save(dir.path()).unwrap_err();
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), before);
    }
}
