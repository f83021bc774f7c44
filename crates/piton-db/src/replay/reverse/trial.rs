//! Tries on a migrated copy whether its down migrations restore what was there.

use std::time::{Duration, Instant};

use super::super::layout::{Generated, Layout, Table};
use super::super::session;
use super::held::{self, Held};
use super::judge::{self, Goes};
use super::rows::refill_since;
use super::{Reverse, SCHEMA};
use crate::capture::is_since;
use crate::changes::{self, Kind, Presence};
use crate::error::Doing;
use crate::fingerprint::Structure;
use crate::migrate::Migrations;
use crate::{Database, DbError, Session, quote};

/// A migrated copy on which the down migrations are about to run.
#[derive(Debug)]
pub struct Trial {
    golden: Session,
    copy: Session,
    /// What the golden copy is made of.
    structure: Structure,
    before: Layout,
    after: Layout,
    reverse: Reverse,
    since: u64,
    held: Held,
    /// How long it took to look what stands in the way and what has to be saved.
    looked: Duration,
}

impl Trial {
    /// Returns the number of the first transaction that is to come, before the migration begins on its copy.
    ///
    /// # Errors
    /// When the copy cannot be asked.
    pub async fn first(copy: &Database) -> Result<u64, DbError> {
        let next = "select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text";
        let row = session(copy).await?.query_one(next, &[]).await.doing(|| "read the copy's time".into())?;
        row.get::<_, &str>(0)
            .parse()
            .map_err(|_| DbError::Replay("the server has no number of its transactions".into()))
    }

    /// Begins after the migration and before the down migrations; the inner error is the reason why they are not to be run.
    ///
    /// `overwritten` are the tables of which the migration changes or removes something, `since` what [`Trial::first`] returned.
    ///
    /// # Errors
    /// When either database cannot be read, or the copy not be written.
    pub async fn begin(
        golden: &Database,
        copy: &Database,
        migrations: &Migrations,
        overwritten: &[String],
        since: u64,
    ) -> Result<Result<Self, String>, DbError> {
        let record = &migrations.tool.record();
        let (of_golden, of_copy) = (session(golden).await?, session(copy).await?);
        let (before, after) = (Layout::read(&of_golden).await?, Layout::read(&of_copy).await?);
        let reverse = match judge::goes_on(&before, &after, record) {
            Ok(goes) => {
                if let Some(why) = changed(&of_golden, &of_copy, &goes, overwritten).await? {
                    return Ok(Err(why));
                }
                judge::judge(&goes, &after, record)
            }
            Err(why) => Err(why),
        };
        let reverse = match reverse {
            Ok(reverse) => reverse,
            Err(why) => return Ok(Err(why)),
        };
        for refill in &reverse.refill {
            let sql = format!(
                "select not exists (select from {} g where {})",
                refill.migrated,
                is_since("g.xmin", since)
            );
            let what = || format!("look who wrote the rows of {}", refill.table);
            if !of_copy.query_one(&sql, &[]).await.doing(what)?.get::<_, bool>(0) {
                return Ok(Err(format!(
                    "it writes rows of {}, so that nothing tells whether somebody else wrote them before",
                    refill.table
                )));
            }
        }
        let Some(held) = Held::begin(copy, &reverse).await? else {
            return Ok(Err("somebody writes to the copy".into()));
        };
        // All of it is done while requests wait.
        let began = Instant::now();
        if let Some(why) = held.obstacle_since(&reverse, since).await? {
            return Ok(Err(why));
        }
        held.lines(&reverse, since).await?;
        let looked = began.elapsed();
        let goes = judge::goes_on(&before, &after, record).unwrap_or_default();
        watch(&of_copy, &goes, &reverse).await?;
        drop(goes);
        let structure = migrations.structure(golden).await?;
        Ok(Ok(Self {
            golden: of_golden,
            copy: of_copy,
            structure,
            before,
            after,
            reverse,
            since,
            held,
            looked,
        }))
    }

    /// Ends after the down migrations, which took so long; the inner error is the reason why they are no way back.
    ///
    /// # Errors
    /// When either database cannot be read, or the copy not be written.
    pub async fn end(
        self,
        copy: &Database,
        migrations: &Migrations,
        ms: u64,
    ) -> Result<Result<Reverse, String>, DbError> {
        let record = &migrations.tool.record();
        let seen = format!("select what from {SCHEMA}.seen order by 1 limit 1");
        let seen =
            self.copy.query_opt(&seen, &[]).await.doing(|| "read what the down migration did".into())?;
        drop(self.held);
        held::remove(&self.copy).await?;
        if let Some(row) = seen {
            return Ok(Err(row.get(0)));
        }
        if let Some(change) = self.structure.changes_to(&migrations.structure(copy).await?).first() {
            return Ok(Err(format!("after the down migration {change}")));
        }
        let down = Layout::read(&self.copy).await?;
        let goes = judge::goes_on(&self.before, &self.after, record).unwrap_or_default();
        if let Some(why) = judge::made_anew(&self.before, &goes, &down, record) {
            return Ok(Err(why));
        }
        let began = Instant::now();
        refill_since(&self.golden, &self.copy, &self.reverse, self.since).await?;
        let ms = ms + u64::try_from((self.looked + began.elapsed()).as_millis()).unwrap_or(u64::MAX);
        let apart = changes::apart(&self.golden, &self.copy, record).await?;
        // A number that was given out is a gap, as after any row that was refused.
        let counts = |change: &&changes::TableChange| {
            change.kind != Kind::Sequence || change.presence != Presence::Both
        };
        if let Some(change) = apart.iter().find(counts) {
            let rows = super::super::rows(change.only_in_live.max(change.only_in_golden));
            return Ok(Err(format!("{rows} of {} are not as before after the down migration", change.table)));
        }
        Ok(Ok(Reverse { ms, ..self.reverse }))
    }
}

/// Says which table of those in question has lost or changed rows.
async fn changed(
    golden: &Session,
    copy: &Session,
    goes: &[Goes<'_>],
    overwritten: &[String],
) -> Result<Option<String>, DbError> {
    for one in goes.iter().filter(|one| overwritten.contains(&one.before.quoted())) {
        if one.before.partitioned {
            continue;
        }
        let names = |table: &Table, columns: Vec<String>| crate::Table {
            schema: table.schema.clone(),
            name: table.name.clone(),
            oid: table.oid,
            columns,
            filter: None,
        };
        let written = one.columns.iter().filter(|(_, after)| after.generated == Generated::No);
        let (a, b): (Vec<String>, Vec<String>) =
            written.map(|(before, after)| (before.name.clone(), after.name.clone())).unzip();
        let (was, is) = (names(one.before, a), names(one.after, b));
        let lost = changes::missing((golden, &was, &was.columns), (copy, &is, &is.columns)).await?;
        if lost > 0 {
            return Ok(Some(format!(
                "it changes or removes {} of {}: what is written in the new meaning would be wrong in the old one",
                super::super::rows(lost),
                one.before.quoted()
            )));
        }
    }
    Ok(None)
}

/// Notes which statements of a down migration could change or remove rows that somebody has written meanwhile.
///
/// A statement fires them where it finds no row as well, as on a copy that has none of the later ones.
async fn watch(copy: &Session, goes: &[Goes<'_>], reverse: &Reverse) -> Result<(), DbError> {
    let what = || "watch what the down migration does".to_owned();
    let mut sql = format!(
        "create table {SCHEMA}.seen (what text);
         create function {SCHEMA}.note() returns trigger language plpgsql security definer set search_path = '' as
         $$ begin insert into {SCHEMA}.seen values (tg_argv[0]); return null; end $$;"
    );
    let trigger = |name: &str, event: &str, table: &Table, does: &str| {
        let table = table.quoted();
        let said = format!("the down migration {does} {table}, and later ones may be among them");
        format!(
            "create trigger \"!{SCHEMA}_{name}\" before {event} on {table} for each statement execute function {SCHEMA}.note({});",
            quote::literal(&said)
        )
    };
    for one in goes {
        sql.push_str(&trigger("removes", "delete or truncate", one.after, "removes rows of"));
        let narrowed = reverse.narrowed.iter().any(|narrowed| narrowed.table == one.after.quoted());
        let columns: Vec<String> = one.columns.iter().map(|(_, after)| quote::ident(&after.name)).collect();
        let event = match narrowed || one.before.root.is_some() || columns.is_empty() {
            // The type of a column that a trigger names cannot be changed.
            true => "update".to_owned(),
            false => format!("update of {}", columns.join(", ")),
        };
        sql.push_str(&trigger("changes", &event, one.after, "changes rows of"));
    }
    copy.batch_execute(&sql).await.doing(what)
}
