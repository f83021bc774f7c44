//! What a migration's SQL text says about locks, rewrites, and the release that runs beside it, before it is run anywhere.
//!
//! The rules are squawk's, by squawk's names, and three of our own. A rehearsal measures what a text can only suspect, so that a
//! finding is advice. A `-- squawk-ignore RULE` before a statement is heeded.

use squawk_linter::ignore::{IgnoreKind, ignore_rule_info};
use squawk_linter::{Linter, LinterSettings, Rule};
use squawk_syntax::{SourceFile, SyntaxNode, ast};

/// The rules that are worth a warning everywhere: each with the safer form, where squawk has none to tell.
const USUAL: [(Rule, Option<&str>); 20] = [
    // What keeps others waiting.
    (Rule::RequireConcurrentIndexCreation, None),
    (Rule::RequireConcurrentIndexDeletion, None),
    (Rule::RequireConcurrentReindex, None),
    (Rule::RequireConcurrentPartitionDetach, None),
    (Rule::ConstraintMissingNotValid, None),
    (Rule::AddingForeignKeyConstraint, None),
    (Rule::AddingSerialPrimaryKeyField, None),
    (Rule::AddingNotNullableField, None),
    (Rule::DisallowedUniqueConstraint, None),
    (Rule::BanTruncateCascade, Some("name the tables that are to be emptied.")),
    // What writes every row anew.
    (Rule::AddingFieldWithDefault, None),
    (
        Rule::ChangingColumnType,
        Some(
            "Add a column of the new type, fill it in parts, let the release write both, and drop the old one later.",
        ),
    ),
    // What the running release does not expect.
    (Rule::AddingRequiredField, None),
    (
        Rule::RenamingColumn,
        Some("Add a column of the new name, write both, and drop the old one in a later release."),
    ),
    (Rule::RenamingTable, Some("Keep the old name as a view until no release uses it.")),
    (Rule::BanDropColumn, Some(LATER)),
    (Rule::BanDropTable, Some(LATER)),
    (Rule::BanDropView, Some(LATER)),
    (Rule::BanDropFunction, Some(LATER)),
    (Rule::BanDropType, Some(LATER)),
];

const LATER: &str = "Drop it in the release after the last one that uses it.";

/// Our own rules: squawk has none about rows, and the one about `VACUUM FULL` names a statement that no server before 19 has.
const EVERY_ROW: &str = "changing-every-row";
const WHOLE_TABLE: &str = "writing-a-table-anew";
const OWN: [&str; 3] = [EVERY_ROW, WHOLE_TABLE, SYNTAX];

/// The rule that finds what cannot be parsed, where no other rule finds anything.
pub const SYNTAX: &str = "syntax-error";

/// Something in a migration's text that may hurt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name.
    pub rule: String,
    /// The line, counted from 1.
    pub line: u32,
    /// What it does to others, as a sentence.
    pub what: String,
    /// What would not, as a sentence.
    pub safer: Option<String>,
}

/// Lists the rules that a name stands for, as findings name them; none when there is no such rule.
///
/// squawk reads two spellings of one rule, and one name for two.
pub fn rules_of(name: &str) -> Vec<String> {
    match name.parse::<Rule>() {
        Ok(rule) if rule.expands_to().is_empty() => vec![rule.to_string()],
        Ok(rule) => rule.expands_to().iter().map(ToString::to_string).collect(),
        Err(_) => OWN.iter().filter(|own| **own == name).map(ToString::to_string).collect(),
    }
}

/// Lists the names of the rules that are worth a warning everywhere.
pub fn usual_rules() -> impl Iterator<Item = String> {
    USUAL.iter().map(|(rule, _)| rule.to_string()).chain(OWN.map(str::to_owned))
}

/// Lists what the rules of these names find in a migration, by line, and comments that ignore a rule which is none.
///
/// A text that runs in one transaction is taken for that: a table that it makes itself is nobody else's yet.
pub fn findings(text: &str, rules: &[String]) -> Vec<Finding> {
    let file = SourceFile::parse(text);
    let mut linter = Linter::from(rules.iter().filter_map(|name| name.parse::<Rule>().ok()));
    linter.settings = LinterSettings {
        assume_in_transaction: !crate::migrate::runs_one_by_one(text),
        ..LinterSettings::default()
    };
    let mut found = Vec::new();
    for violation in linter.lint(&file, text) {
        let line = line_of(text, violation.text_range.start().into());
        if violation.code == Rule::UnusedIgnore {
            found.extend(ignores_nothing(&text[violation.text_range], line));
            continue;
        }
        let safer = violation.help.or_else(|| safer(violation.code));
        found.push(Finding { rule: violation.code.to_string(), line, what: violation.message, safer });
    }
    let tree = file.syntax_node();
    let counts = |own: &Finding| rules.contains(&own.rule) && !is_ignored(&tree, text, own);
    let own = file.tree().stmts().filter_map(|statement| own_finding(&statement, text));
    found.extend(own.filter(counts));
    // One mistake is often told several times.
    found.extend(file.errors().iter().map(|error| unparsed(error.range().start().into(), text)).find(counts));
    found.sort_by_key(|finding| finding.line);
    found
}

/// Tells of a name after `squawk-ignore` that is no rule's; squawk does not know ours.
fn ignores_nothing(name: &str, line: u32) -> Option<Finding> {
    (!OWN.contains(&name)).then(|| Finding {
        rule: Rule::UnusedIgnore.to_string(),
        line,
        what: format!("There is no lint rule {name}, so that the comment ignores nothing."),
        safer: Some("Write the name that the finding has in its parentheses.".into()),
    })
}

/// Tells whether a comment says to ignore a finding of our own, where squawk would heed it for its own.
fn is_ignored(tree: &SyntaxNode, text: &str, finding: &Finding) -> bool {
    let tokens = tree.descendants_with_tokens().filter_map(|element| element.into_token());
    tokens.into_iter().any(|token| {
        let Some((names, range, kind)) = ignore_rule_info(&token) else { return false };
        let is_named = names.split(',').any(|name| name.trim() == finding.rule);
        match kind {
            IgnoreKind::File => is_named || names.trim().is_empty(),
            IgnoreKind::Line => {
                let line = line_of(text, range.start().into());
                is_named && (line..=line + 1).contains(&finding.line)
            }
        }
    })
}

fn safer(rule: Rule) -> Option<String> {
    USUAL.iter().find(|(usual, _)| *usual == rule)?.1.map(str::to_owned)
}

/// Looks at a statement by our own rules.
fn own_finding(statement: &ast::Stmt, text: &str) -> Option<Finding> {
    let (rule, token) = match statement {
        ast::Stmt::Update(update) if update.where_clause_or_current_of().is_none() => {
            (EVERY_ROW, update.update_token())
        }
        ast::Stmt::Delete(delete) if delete.where_clause_or_current_of().is_none() => {
            (EVERY_ROW, delete.delete_token())
        }
        ast::Stmt::Vacuum(vacuum) if vacuum.is_full() => (WHOLE_TABLE, vacuum.vacuum_token()),
        ast::Stmt::Cluster(cluster) => (WHOLE_TABLE, cluster.cluster_token()),
        _ => return None,
    };
    let (what, safer) = match rule {
        EVERY_ROW => (
            "It locks every row of the table until the migration ends, and whoever writes one waits.",
            "Change the rows in parts, each in a transaction of its own.",
        ),
        _ => (
            "It blocks reads and writes while the table is written anew.",
            "Run pg_repack by hand: it needs the same lock for a moment alone.",
        ),
    };
    Some(Finding {
        rule: rule.to_owned(),
        line: line_of(text, token?.text_range().start().into()),
        what: what.to_owned(),
        safer: Some(safer.to_owned()),
    })
}

fn unparsed(offset: usize, text: &str) -> Finding {
    Finding {
        rule: SYNTAX.to_owned(),
        line: line_of(text, offset),
        what: "It cannot be parsed here, so that no rule sees what it does.".to_owned(),
        safer: Some("Look yourself where PostgreSQL takes it.".to_owned()),
    }
}

fn line_of(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    u32::try_from(memchr::memchr_iter(b'\n', before).count() + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(u32, String)> {
        let rules: Vec<String> = usual_rules().collect();
        let found = findings(text, &rules);
        assert!(found.iter().all(|finding| finding.safer.is_some()), "{found:#?}");
        found.into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn what_locks_rewrites_or_breaks_is_found_by_line() {
        for (text, rule) in [
            ("create index i on t (a)", "require-concurrent-index-creation"),
            ("drop index i", "require-concurrent-index-deletion"),
            ("reindex table t", "require-concurrent-reindex"),
            ("alter table t add constraint c check (a > 0)", "constraint-missing-not-valid"),
            ("alter table t add foreign key (a) references u (id)", "adding-foreign-key-constraint"),
            ("alter table t alter a set not null", "adding-not-nullable-field"),
            ("alter table t add constraint c unique (a)", "disallowed-unique-constraint"),
            ("alter table t add a float default random()", "adding-field-with-default"),
            ("alter table t alter a type bigint", "changing-column-type"),
            ("vacuum full t", WHOLE_TABLE),
            ("alter table t add a int not null", "adding-required-field"),
            ("alter table t rename a to b", "renaming-column"),
            ("alter table t rename to u", "renaming-table"),
            ("alter table t drop column a", "ban-drop-column"),
            ("drop table t", "ban-drop-table"),
            ("truncate t cascade", "ban-truncate-cascade"),
            ("update t set a = 1", EVERY_ROW),
            ("delete from t", EVERY_ROW),
        ] {
            let found = found(&format!("-- why\nselect 1;\n{text};\n"));
            assert!(found.contains(&(3, rule.to_owned())), "{text}: {found:?}");
        }
    }

    #[test]
    fn the_safer_form_and_a_table_of_its_own_are_nobodys_trouble() {
        for text in [
            "create index concurrently i on t (a)",
            "alter table t add constraint c check (a > 0) not valid",
            "alter table t validate constraint c",
            "alter table t add a int default 7",
            "update t set a = 1 where id < 1000",
            "create table t (id bigint primary key); create index i on t (id);",
            "-- squawk-ignore ban-drop-column\nalter table t drop column a;",
            "-- squawk-ignore changing-every-row -- ten rows\nupdate t set a = 1;",
            "select 1;\n/* squawk-ignore ban-drop-column, writing-a-table-anew */ vacuum full t;",
            "delete from t;\n-- squawk-ignore-file changing-every-row",
            "-- squawk-ignore-file\ndelete from t;",
            "alter table t add constraint c check (a > 0) not valid;\nvacuum t;\nalter table t validate constraint c",
            "-- squawk-ignore syntax-error\nthis is no SQL",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_told_once() {
        let text = "select 1;\nalter table t drop column a as it were;\n\nthis is no SQL;\nselect 2;";
        let found = found(text);
        assert_eq!(
            found.iter().filter(|(_, rule)| rule == SYNTAX).collect::<Vec<_>>(),
            [&(2, SYNTAX.into())]
        );
        let ignored = text.replace("alter", "-- squawk-ignore syntax-error\nalter");
        assert!(
            findings(&ignored, &[SYNTAX.into()]).iter().any(|finding| finding.line == 5),
            "the other one"
        );
    }

    #[test]
    fn a_file_that_runs_statement_by_statement_is_no_transaction() {
        let rules = ["ban-concurrent-index-creation-in-transaction".to_owned()];
        let build = "create index concurrently i on t (a); ";
        assert_eq!(findings(&build.repeat(2), &rules), []);
        assert_eq!(findings(&format!("begin; {build} commit;"), &rules).len(), 1);
    }

    #[test]
    fn a_comment_ignores_its_own_statement_and_rule_alone() {
        let every_row = |line| (line, EVERY_ROW.to_owned());
        assert_eq!(found("-- squawk-ignore writing-a-table-anew\ndelete from t;"), [every_row(2)]);
        assert_eq!(found("-- squawk-ignore changing-every-row\nselect 1;\ndelete from t;"), [every_row(3)]);
        let unused = |line| (line, "unused-ignore".to_owned());
        let text = "select 1;\n-- squawk-ignore ban-drop-column, changing-evry-row\ndelete from t;";
        assert_eq!(found(text), [unused(2), every_row(3)]);
        let told = &findings(text, &[])[0].what;
        assert!(told.contains("no lint rule changing-evry-row"), "{told}");
    }

    #[test]
    fn a_name_stands_for_the_rules_that_findings_name() {
        for rule in usual_rules().chain(["prefer-text-field".to_owned()]) {
            assert_eq!(rules_of(&rule), [rule]);
        }
        assert_eq!(rules_of("prefer-timestamptz"), ["prefer-timestamp-tz"]);
        assert_eq!(
            rules_of("require-timeout-settings"),
            ["require-lock-timeout", "require-statement-timeout"]
        );
        assert_eq!(rules_of("no-such-rule"), [""; 0]);
    }
}
