//! Takes migrations back by a tool's own down migrations.

use std::time::Duration;

use piton_exec::Command;

use super::adapter::{Adapter, At, Known};
use super::foreign::{Look, Run, Said, end_sessions, failed, look, trouble, write};
use super::run::{backoff, holders, lock};
use super::stood::Stood;
use super::tool::Migrations;
use super::{Around, MigrateOptions, MigrationError};
use crate::progress::{OnReport, Progress, Report};
use crate::{Database, DbError, Trouble};

pub(super) async fn take_back(
    adapter: &dyn Adapter,
    migrations: &Migrations,
    database: &Database,
    around: &Around,
    names: &[String],
    options: MigrateOptions,
    report: OnReport<'_>,
) -> Result<Duration, DbError> {
    let client = database.connect().await?;
    lock(&client, options.wait_for_other).await?;
    end_sessions(&client).await?;
    let exact = database.with_exact_ssl(&client).await?;
    let run = Run { adapter, migrations, database: &exact, around, options, client: &client };
    let look = run.look().await?;
    let names = look.applied(names);
    // All of them, before the first one runs.
    for name in &names {
        way_back(adapter, migrations, &look, name)?;
    }
    let (mut all, total) = (Duration::ZERO, names.len() as u64);
    for (done, name) in (0..).zip(names) {
        report(Report::Progress(Progress { doing: "take back", what: name.clone(), done, total }));
        all += run.take_back(name, report).await?;
    }
    Ok(all)
}

pub(super) async fn may_take_back(
    adapter: &dyn Adapter,
    migrations: &Migrations,
    database: &Database,
    names: &[String],
) -> Result<(), DbError> {
    let look = look(adapter, &migrations.folder, &*database.connect().await?).await?;
    for name in look.applied(names) {
        way_back(adapter, migrations, &look, name)?;
    }
    Ok(())
}

impl Look {
    /// Lists those of the migrations that the database has, the last one first.
    fn applied<'n>(&self, names: &'n [String]) -> Vec<&'n String> {
        let is_applied = |name: &str| self.states.iter().any(|one| one.name == name && one.is_applied());
        names.iter().rev().filter(|name| is_applied(name)).collect()
    }
}

/// Builds the command that takes one migration back.
fn way_back(
    adapter: &dyn Adapter,
    migrations: &Migrations,
    look: &Look,
    name: &str,
) -> Result<(Known, Command), MigrationError> {
    let unknown = Known { name: name.to_owned(), ..Known::default() };
    let one = look.known.iter().find(|known| known.name == name).unwrap_or(&unknown);
    let (files, known, rows) = (&look.files, &look.known, &look.rows);
    let (app, folder) = (&migrations.app, &migrations.folder);
    let command = adapter.revert(&At { app, folder, files, known, rows, one });
    let command = command.map_err(|why| MigrationError::NoWayBack { name: name.to_owned(), why })?;
    Ok((one.clone(), command))
}

impl Run<'_> {
    /// Takes one migration back; again after a lock was not to be had.
    async fn take_back(&self, name: &str, report: OnReport<'_>) -> Result<Duration, DbError> {
        let before = self.look().await?;
        let (one, command) = way_back(self.adapter, self.migrations, &before, name)?;
        // The tables themselves have to tell: what goes back and comes again may look as before.
        let all_told = [Known { atomic: true, shows: false, ..one }];
        let stood = Stood::of(self.adapter, self.database, &all_told).await?;
        let down = format!("the down migration of {name}");
        let mut attempt = 1;
        loop {
            let output = self.run(command.clone(), self.options.lock_timeout, report).await?;
            let said = Said::of(&output);
            if output.success() {
                let after = self.look().await?;
                let has = |look: &Look, name: &str| {
                    look.states.iter().any(|one| one.name == name && one.is_applied())
                };
                let others = before.states.iter().filter(|one| one.name != name && one.is_applied());
                let left = match others.into_iter().find(|one| !has(&after, &one.name)) {
                    _ if has(&after, name) => {
                        "it ended well, and the tool's record still has the migration".into()
                    }
                    Some(other) => format!("it ended well, and has taken back {} as well", other.name),
                    None => return Ok(output.elapsed),
                };
                return Err(failed(down, said.last, left, None));
            }
            let trouble = trouble(self.client, &said).await;
            if trouble == Some(Trouble::Away) {
                let left = "whether it was kept is not known; the tool's record tells".into();
                return Err(failed(down, said.last, left, trouble));
            }
            end_sessions(self.client).await?;
            let clean = stood == Stood::of(self.adapter, self.database, &all_told).await?
                && self.is_recorded_as(&before, name).await?;
            if !clean {
                return Err(failed(down, said.last, "some of it may be kept".into(), trouble));
            }
            let locked = said.has(&["55P03", "LockNotAvailable", "lock timeout"]);
            let (attempts, each) = (self.options.attempts, self.options.lock_timeout);
            if locked && attempt < attempts {
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
                continue;
            }
            if locked {
                let holders = holders(self.client).await;
                return Err(MigrationError::Locked { name: down, line: 0, attempts, each, holders }.into());
            }
            let (line, left) = (0, "nothing of it was kept".into());
            let said = said.last;
            let failed =
                MigrationError::Failed { name: down, line, said, left, unnoted: false, clean, trouble };
            return Err(failed.into());
        }
    }

    /// Has the record say again what it said before a failure that kept nothing; tells whether it does.
    async fn is_recorded_as(&self, before: &Look, name: &str) -> Result<bool, DbError> {
        let look = self.look().await?;
        if look.rows != before.rows {
            let mark = self.adapter.mark(&look.files, &look.known, &look.rows, name, true);
            if !mark.is_empty() {
                write(self.client, &mark).await?;
            }
        }
        Ok(self.look().await?.rows == before.rows)
    }
}
