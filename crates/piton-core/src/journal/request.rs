use jiff::Timestamp;
use rusqlite::params;

use super::{Journal, JournalError, Operator, Request, now, wrap};

/// A request that no process has taken up yet.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its number.
    pub id: i64,
    /// What is asked.
    pub request: Request,
    /// By whom.
    pub by: Operator,
    /// When.
    pub at: Timestamp,
}

impl Journal {
    /// Asks something of a release; whichever process runs it takes the request up.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn ask(&mut self, release: &str, request: Request, by: &Operator) -> Result<i64, JournalError> {
        self.db
            .execute(
                "INSERT INTO requests (release, at, operator, body) VALUES (?1, ?2, ?3, ?4)",
                params![
                    release,
                    now().to_string(),
                    serde_json::to_string(by).unwrap_or_default(),
                    serde_json::to_string(&request).unwrap_or_default()
                ],
            )
            .map_err(wrap(&self.path))?;
        Ok(self.db.last_insert_rowid())
    }

    /// Lists a release's requests that were not taken up, oldest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn pending(&self, release: &str) -> Result<Vec<Pending>, JournalError> {
        let wrap = wrap(&self.path);
        let mut statement = self
            .db
            .prepare_cached(
                "SELECT id, at, operator, body FROM requests WHERE release = ?1 AND NOT taken ORDER BY id",
            )
            .map_err(&wrap)?;
        let rows = statement
            .query_map([release], |row| {
                Ok((
                    row.get(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, String>(3)?,
                ))
            })
            .map_err(&wrap)?;
        let mut pending = Vec::new();
        for row in rows {
            let (id, at, by, body): (i64, _, _, _) = row.map_err(&wrap)?;
            let damaged = |why: String| JournalError::Damaged { seq: id, why: format!("request: {why}") };
            pending.push(Pending {
                id,
                request: serde_json::from_str(&body).map_err(|error| damaged(error.to_string()))?,
                by: serde_json::from_str(&by).map_err(|error| damaged(error.to_string()))?,
                at: at.parse().map_err(|error: jiff::Error| damaged(error.to_string()))?,
            });
        }
        Ok(pending)
    }

    /// Marks a request as taken up, so that it is not taken up twice.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn taken(&mut self, id: i64) -> Result<(), JournalError> {
        self.db
            .execute("UPDATE requests SET taken = 1 WHERE id = ?1", [id])
            .map(|_| ())
            .map_err(wrap(&self.path))
    }
}
