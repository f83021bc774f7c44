//! How the release that serves does on the new schema: while traffic moves, both releases use it.

use piton_db::Database;
use serde::{Deserialize, Serialize};

use super::Ctx;
use super::check::check_database;
use crate::fault::Fault;

/// What the checks of the release that serves have found on the migrated copy.
///
/// Those alone that ask the database: the app is not started on a copy, because its variables are real, and with them the mail
/// that it sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Serving {
    /// Its commit.
    pub commit: String,
    /// How many of its checks ask the database, and pass before the migration.
    pub checks: usize,
    /// What is wrong on the new schema, by check.
    pub wrong: Vec<String>,
}

impl Serving {
    /// Makes the checks with which the release was started; `None` when none of them tells anything.
    pub(super) async fn look(
        ctx: &Ctx<'_, '_>,
        golden: &Database,
        copy: &Database,
    ) -> Result<Option<Self>, Fault> {
        let Some(commit) = &ctx.world.backed_up_commit else { return Ok(None) };
        let mut serving = Self { commit: commit.clone(), checks: 0, wrong: Vec::new() };
        for check in &ctx.world.backed_up_checks {
            let Some(found) = check_database(copy, check).await? else { continue };
            if let Some(wrong) = found.wrong {
                // What was wrong before is none of the migration's doing.
                let before = check_database(golden, check).await?;
                if before.is_some_and(|before| before.wrong.is_some()) {
                    continue;
                }
                serving.wrong.push(format!("{}: {wrong}", found.name));
            }
            serving.checks += 1;
        }
        Ok((serving.checks > 0).then_some(serving))
    }

    /// Says it in one line.
    pub(super) fn words(&self) -> String {
        let commit = self.commit.get(..7).unwrap_or(&self.commit);
        match (self.wrong.as_slice(), self.checks) {
            ([], 1) => format!("{commit} works on the new schema, as far as its check of the database tells"),
            ([], count) => {
                format!("{commit} works on the new schema, as far as its {count} checks of the database tell")
            }
            (wrong, _) => format!("{commit} does not work on the new schema: {}", wrong.join("; ")),
        }
    }
}
