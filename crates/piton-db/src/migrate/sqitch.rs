//! Sqitch: a plan of changes with a deploy script each, and a schema that says what was deployed.

use std::path::Path;

use piton_exec::Command;
use ring::digest;

use super::adapter::{
    Adapter, At, Known, NO_DOWN, Row, by_name, hides, is_wrapped, program, shows_as_a_whole, waits_harmlessly,
};
use super::tool::Files;
use super::{Migration, MigrationError, State};
use crate::hex::hex;
use crate::quote;

const PLAN: &str = "sqitch.plan";

pub(super) struct Sqitch;

/// Builds a call in the plan's folder; where the database is stands in libpq's variables.
fn sqitch(app: &Path, folder: &Path, args: &[&str]) -> Command {
    program(app, "sqitch").args(args.iter().copied()).args(["--target", "db:pg:"]).cwd(folder)
}

/// Returns what Sqitch calls a change of the plan, of a reworked one the last.
fn in_the_end(name: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("{name}@HEAD") }
}

/// What Sqitch calls the last one of a name, so that no tag can be called so: a rework that the plan has not got.
const LAST: &str = "@HEAD";

/// Returns the name that a change was planned with: a reworked one is called `name@tag` afterwards.
fn planned(name: &str) -> &str {
    name.split_once('@').map_or(name, |(planned, _)| planned)
}

fn project(files: &Files) -> &str {
    let plan = files.get(PLAN).map_or("", String::as_str);
    plan.lines().find_map(|line| line.trim().strip_prefix("%project=")).unwrap_or_default()
}

/// Lists the plan's changes by the names that tell them apart.
fn changes(plan: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    // Where the next tag goes: it names all changes before it that are reworked after it.
    let mut tagged: Vec<(usize, String)> = Vec::new();
    for line in plan.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['%', '#']) {
            continue;
        }
        let word = line.split_whitespace().next().unwrap_or_default();
        if let Some(tag) = word.strip_prefix('@') {
            tagged.push((names.len(), tag.to_owned()));
            continue;
        }
        let name = word.trim_start_matches('+');
        if let Some(earlier) = names.iter().rposition(|other| other == name)
            && let Some((_, tag)) = tagged.iter().rfind(|(at, _)| *at > earlier)
        {
            names[earlier] = format!("{name}@{tag}");
        }
        names.push(name.to_owned());
    }
    names
}

/// Takes deployed changes out of the record as `sqitch revert --log-only` does it.
fn revert(own: &str) -> Vec<String> {
    let of_them = format!("where change_id in (select change_id from sqitch.changes where {own})");
    vec![
        format!(
            "insert into sqitch.events (event, change_id, change, project, note, committer_name, committer_email,
                                        planned_at, planner_name, planner_email)
             select 'revert', change_id, change, project, note, committer_name, committer_email,
                    planned_at, planner_name, planner_email from sqitch.changes where {own}"
        ),
        format!("delete from sqitch.dependencies {of_them}"),
        format!("delete from sqitch.tags {of_them}"),
        format!("delete from sqitch.changes where {own}"),
    ]
}

/// Gives the record's rows the names of the plan, in which a reworked change comes again.
fn named(known: &[Known], rows: &[Row]) -> Vec<Row> {
    let mut taken: Vec<&str> = Vec::new();
    let one = |row: &Row| {
        let mut fits = known.iter().map(|known| known.name.as_str()).filter(|name| planned(name) == row.name);
        let name = match fits.clone().find(|name| !taken.contains(name)) {
            Some(name) => {
                taken.push(name);
                name.to_owned()
            }
            // A newer release has reworked it.
            None if fits.next().is_some() => format!("{}{LAST}", row.name),
            None => row.name.clone(),
        };
        Row { name, ..row.clone() }
    };
    rows.iter().map(one).collect()
}

impl Adapter for Sqitch {
    fn record(&self) -> (Option<&'static str>, Option<&'static str>) {
        (Some("sqitch"), None)
    }

    fn rows(&self, files: &Files) -> Option<(&'static str, String)> {
        let project = quote::literal(project(files));
        let query = format!(
            "select change, true, script_hash, null::text, planned_at from sqitch.changes where project = {project}
             union all
             select change, false, null::text, 'sqitch has noted that its deploy script failed', planned_at
             from (select distinct on (change_id) * from sqitch.events where project = {project}
                   order by change_id, committed_at desc) e
             where event = 'fail' and not exists (select from sqitch.changes c where c.change_id = e.change_id)
             order by 5"
        );
        Some(("sqitch.changes", query))
    }

    fn reads(&self, path: &str) -> bool {
        path == PLAN || (path.starts_with("deploy/") && path.ends_with(".sql"))
    }

    fn known(&self, files: &Files) -> Result<Vec<Known>, MigrationError> {
        let Some(plan) = files.get(PLAN) else {
            return Err(MigrationError::Unreadable {
                file: PLAN.into(),
                why: "it is not in the folder".into(),
            });
        };
        let one = |name: String| {
            let script = files.get(&format!("deploy/{name}.sql"));
            let sha1 = |text: &String| {
                hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
            };
            let one_transaction = script.is_some_and(|text| is_wrapped(text));
            // What was deployed is recorded after the script's own commit.
            let atomic = one_transaction && script.is_some_and(|text| shows_as_a_whole(text));
            Known {
                name,
                checksums: script.map(sha1).into_iter().collect(),
                one_transaction,
                atomic,
                shows: atomic && script.is_some_and(|text| !hides(text)),
                whole: atomic,
                waits_harmlessly: script.is_some_and(|text| waits_harmlessly(text)),
                ..Known::default()
            }
        };
        Ok(changes(plan).into_iter().map(one).collect())
    }

    fn join(&self, known: &[Known], rows: &[Row]) -> Vec<Migration> {
        by_name(known, &named(known, rows))
    }

    fn minds(&self, one: &Migration, _known: &[Known], _rows: &[Row]) -> bool {
        // It tries again by itself what has left nothing.
        !matches!(one.state, State::Applied | State::Pending | State::Failed { .. })
    }

    /// psql runs the script, up to its first error, and names it; the record is written without psql.
    ///
    /// The scripts that verify and revert are run by it, too, when this one has been committed.
    fn is_of_script(&self, name: &str, said: &str, _noted: bool) -> bool {
        let script = format!("deploy/{name}.sql:");
        let mut errors =
            said.lines().filter(|line| line.starts_with("psql:") && line.contains(" ERROR: ")).peekable();
        errors.peek().is_some() && errors.all(|line| line.contains(&script))
    }

    fn apply(&self, app: &Path, folder: &Path, name: &str) -> Command {
        sqitch(app, folder, &["deploy", "--mode", "change", "--to-change", &in_the_end(name)])
    }

    fn revert(&self, at: &At<'_>) -> Result<Command, &'static str> {
        at.script(&format!("revert/{}.sql", at.one.name), is_wrapped)?;
        let place = at.known.iter().position(|known| known.name == at.one.name).ok_or(NO_DOWN)?;
        let before = place.checked_sub(1).map(|before| in_the_end(&at.known[before].name));
        let to = before.iter().flat_map(|before| ["--to-change", before]);
        let args: Vec<&str> = ["revert", "-y"].into_iter().chain(to).collect();
        Ok(sqitch(at.app, at.folder, &args))
    }

    fn look(&self, app: &Path, folder: &Path) -> Command {
        sqitch(app, folder, &["status"])
    }

    fn mend(&self) -> &'static str {
        "let `sqitch` be Sqitch's own program, with its engine for PostgreSQL"
    }

    fn by_hand(&self) -> &'static str {
        "sqitch deploy --log-only --to-change CHANGE"
    }

    /// A change that is applied has an identifier over its whole history, which Sqitch alone computes.
    fn mark(&self, files: &Files, known: &[Known], rows: &[Row], name: &str, applied: bool) -> Vec<String> {
        if applied {
            return Vec::new();
        }
        let own = format!(
            "project = {} and change = {}",
            quote::literal(project(files)),
            quote::literal(planned(name))
        );
        let mut statements = vec![format!(
            "delete from sqitch.events e where event = 'fail' and {own}
             and not exists (select from sqitch.changes c where c.change_id = e.change_id)"
        )];
        // A change of the plan may be a reworked one, which has its name in common with the one before.
        let is_deployed = named(known, rows).iter().any(|row| row.name == name && row.finished);
        if is_deployed && known.iter().all(|known| known.name != name) {
            // Of a rework that the plan has not got, the ones before stay.
            let last = "order by planned_at desc limit 1";
            let last = if name.ends_with(LAST) { last } else { "" };
            statements.extend(revert(&format!(
                "change_id in (select change_id from sqitch.changes where {own} {last})"
            )));
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_another_script_is_none_of_the_deployed_one() {
        let is = |said: &str| Sqitch.is_of_script("users", said, true);
        assert!(is(
            "  + users .. psql:deploy/users.sql:3: ERROR:  x\npsql:deploy/users.sql:3: ERROR:  relation \"a\" is there\nnot ok"
        ));
        assert!(!is(
            "psql:verify/users.sql:2: ERROR:  division by zero\npsql:revert/users.sql:1: ERROR:  no"
        ));
        assert!(!is("psql:deploy/users.sql:3: ERROR:  x\npsql:revert/users.sql:1: ERROR:  no"));
        assert!(!is("psql:deploy/other.sql:3: ERROR:  x"));
        assert!(!is("ERROR:  could not record"));
    }

    #[test]
    fn a_plan_is_read_with_its_reworked_changes() {
        let plan = "%syntax-version=1.0.0\n%project=shop\n\n# first\nusers 2026-01-01T00:00:00Z A <a@example> # it\n\
                    orders [users] 2026-01-02T00:00:00Z A <a@example>\n@v1 2026-01-03T00:00:00Z A <a@example>\n\n\
                    users [users@v1] 2026-01-04T00:00:00Z A <a@example>\n";
        assert_eq!(changes(plan), ["users@v1", "orders", "users"]);
        assert_eq!(project(&Files::from([(PLAN.into(), plan.into())])), "shop");
    }
}
