//! What the pending migrations' text says, at the levels that piton.toml gives each rule.

use piton_db::lint::{self, Finding};

use crate::config::{LintLevel, Settings};
use crate::facts::Pending;

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

/// Says that no rule looks at what the tool applies; `None` where that is SQL.
pub(crate) fn blind(settings: &Settings) -> Option<&'static str> {
    let migrations = settings.database.as_ref()?.migrations.as_ref()?;
    let blind = !migrations.tool.is_sql() && !settings.lint.is_empty();
    blind.then_some(
        "no rule of [lint] looks at these migrations, because they are no SQL files; the rehearsal shows what they lock and write anew",
    )
}

/// Looks through the migrations that are pending; finds nothing in those that are not SQL, of which [`blind`] tells.
pub(crate) fn look(settings: &Settings, pending: &Pending) -> Vec<Found> {
    let rules: Vec<String> = settings.lint.keys().cloned().collect();
    let mut found = Vec::new();
    for name in &pending.names {
        let Some((file, text)) = pending.look.migrations.script(name) else { continue };
        let findings = lint::findings(&text, &rules).into_iter();
        found.extend(findings.map(|finding| {
            // A comment that ignores nothing is no rule's finding.
            let level = settings.lint.get(&finding.rule).copied().unwrap_or(LintLevel::Warn);
            Found { file: file.clone(), finding, level }
        }));
    }
    found
}
