//! What the pending migrations' text says, at the levels that piton.toml gives each rule.

use piton_db::lint::{self, Finding};

use crate::config::{LintLevel, Settings};
use crate::facts;
use crate::fault::Fault;
use crate::look::OfCommit;

/// A finding in a file.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    file: String,
    finding: Finding,
    level: LintLevel,
}

impl Found {
    /// Returns the finding in a line: `002_x.sql:3: what it does. What would not. (rule)`.
    pub(crate) fn words(&self) -> String {
        let Finding { rule, line, what, safer } = &self.finding;
        let safer = safer.as_ref().map_or_else(String::new, |safer| format!(" {safer}"));
        format!("{}:{line}: {what}{safer} ({rule})", self.file)
    }

    /// Tells whether the finding refuses the release.
    pub(crate) fn refuses(&self) -> bool {
        self.level == LintLevel::Error
    }
}

/// Looks through the commit's migrations that the source has not applied; finds nothing where that cannot be told, or where they are not SQL.
///
/// # Errors
/// When git cannot read a file.
pub(crate) async fn look(settings: &Settings, source: &Settings, commit: &str) -> Result<Vec<Found>, Fault> {
    let rules: Vec<String> = settings.lint.keys().cloned().collect();
    let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
    let Some(migrations) = migrations.filter(|_| !rules.is_empty()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let pending = facts::pending(settings, source, commit).await.unwrap_or_default();
    if pending.is_empty() {
        return Ok(found);
    }
    let look = OfCommit::look(commit, &settings.root, migrations).await?;
    for name in pending {
        let Some((file, text)) = look.migrations.script(&name) else { continue };
        let findings = lint::findings(&text, &rules).into_iter();
        found.extend(findings.map(|finding| {
            let level = settings.lint[&finding.rule];
            Found { file: file.clone(), finding, level }
        }));
    }
    Ok(found)
}
