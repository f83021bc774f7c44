//! Leaves out of a copy what would reach out of it: a copy that is started must not act as its original.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::fingerprint::USER_MAPPING;
use crate::manifest::Manifest;
use crate::{Database, DbError, cron, quote};

/// What a copy for another environment is without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neutralised {
    /// Subscriptions, which would fetch the publisher's changes: not restored.
    pub subscriptions: Vec<String>,
    /// Log-ins on foreign servers, through which it would read and write elsewhere: not restored, as `user at server`.
    pub user_mappings: Vec<String>,
    /// Materialized views that read from elsewhere, or may: not filled.
    #[serde(default)]
    pub foreign_views: Vec<String>,
    /// Whether the original has pg_cron: neither it nor its jobs are restored.
    #[serde(default)]
    pub cron: bool,
    /// Foreign servers that nobody has a log-in on: what is read there without one, a file, is read through the copy as well.
    #[serde(default)]
    pub open_servers: Vec<String>,
}

impl Neutralised {
    /// Tells what a copy of a backup is without.
    pub fn of(manifest: &Manifest) -> Self {
        let named = |kind: &str| {
            let names = manifest.structure.0.keys().filter_map(|key| key.strip_prefix(kind));
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let user_mappings = named(USER_MAPPING);
        let mut open_servers = named("foreign server ");
        open_servers
            .retain(|server| !user_mappings.iter().any(|log_in| log_in.ends_with(&format!(" at {server}"))));
        Self {
            subscriptions: named("subscription "),
            user_mappings,
            foreign_views: manifest.foreign_views.values().cloned().collect(),
            cron: cron::is_in(&manifest.structure),
            open_servers,
        }
    }

    /// Says what it is without, in words; `None` when that is nothing.
    pub fn in_words(&self) -> Option<String> {
        let count = |number: u64, one: &str, many: &str| match number {
            0 => None,
            1 => Some(format!("1 {one}")),
            number => Some(format!("{number} {many}")),
        };
        let parts = [
            count(self.subscriptions.len() as u64, "subscription", "subscriptions"),
            count(
                self.user_mappings.len() as u64,
                "log-in on a foreign server",
                "log-ins on foreign servers",
            ),
            count(
                self.foreign_views.len() as u64,
                "materialized view that may read from elsewhere",
                "materialized views that may read from elsewhere",
            ),
            self.cron.then(|| "pg_cron with its jobs".to_owned()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { None } else { Some(parts.join(", ")) }
    }
}

/// What reads foreign tables or calls what leads elsewhere, through views, functions, operators, domains and partitions as well.
///
/// That is what an extension has whose functions reach out, and what is written in an untrusted language, which may do anything.
/// Inside the text of a function a call cannot be seen: where the database has a way out, one that people made may be it. A body
/// that is no text (`BEGIN ATOMIC`) is known by what it depends on.
const FOREIGN: &str = "
    with recursive edge(class, oid, above_class, above) as (
        -- What a view reads, its rule depends on.
        select d.refclassid, d.refobjid, case when r.oid is null then d.classid else 'pg_catalog.pg_class'::regclass end,
               coalesce(r.ev_class, d.objid)
        from pg_catalog.pg_depend d
        left join pg_catalog.pg_rewrite r on d.classid = 'pg_catalog.pg_rewrite'::regclass and r.oid = d.objid
        where d.classid in ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass)
          and d.refclassid in ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass,
                               'pg_catalog.pg_type'::regclass)
        union all
        -- Whoever casts to a domain runs its checks.
        select d.refclassid, d.refobjid, 'pg_catalog.pg_type'::regclass, c.contypid
        from pg_catalog.pg_depend d join pg_catalog.pg_constraint c on c.oid = d.objid and c.contypid <> 0
        where d.classid = 'pg_catalog.pg_constraint'::regclass and d.refclassid = 'pg_catalog.pg_proc'::regclass
        union all
        select 'pg_catalog.pg_class'::regclass, inhrelid, 'pg_catalog.pg_class'::regclass, inhparent
        from pg_catalog.pg_inherits
    ),
    way_out(oid) as (
        select d.objid
        from pg_catalog.pg_depend d
        join pg_catalog.pg_extension e on d.refclassid = 'pg_catalog.pg_extension'::regclass and e.oid = d.refobjid
        where e.extname in ('dblink', 'http', 'pg_net', 'aws_s3', 'aws_lambda')
          and d.classid = 'pg_catalog.pg_proc'::regclass and d.deptype = 'e'
        union
        select p.oid
        from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
        where not l.lanpltrusted and l.lanname not in ('c', 'internal')
    ),
    found(class, oid) as (
        select 'pg_catalog.pg_class'::regclass::oid, oid from pg_catalog.pg_class where relkind = 'f'
        union
        select 'pg_catalog.pg_proc'::regclass, oid from way_out
        union
        select 'pg_catalog.pg_proc'::regclass, p.oid
        from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
        where p.oid >= 16384 and p.prokind <> 'a' and l.lanname <> 'internal' and pg_catalog.to_jsonb(p) ->> 'prosqlbody' is null
          and (exists (select from pg_catalog.pg_foreign_server)
               or exists (select from way_out))
          and not exists (
            select from pg_catalog.pg_depend d
            where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
        union
        select e.above_class, e.above from found f join edge e on e.class = f.class and e.oid = f.oid
    ),
    relation as (
        select c.oid, c.relkind, pg_catalog.format('%I.%I', n.nspname, c.relname) as name,
               exists (select from found f where f.class = 'pg_catalog.pg_class'::regclass and f.oid = c.oid) as is_foreign
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
    )";

/// Lists the materialized views that read from elsewhere, by oid.
pub(crate) async fn foreign_views(client: &Client) -> Result<BTreeMap<u32, String>, DbError> {
    let query = format!("{FOREIGN} select oid, name from relation where relkind = 'm' and is_foreign");
    let rows = client.query(&query, &[]).await;
    let rows = rows.doing(|| "list the materialized views that read from elsewhere".into())?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Gathers the planner's statistics of a copy's own rows: of a table with foreign partitions they would be read, too.
pub(crate) async fn analyze(client: &Client) -> Result<(), DbError> {
    let what = || "gather the planner's statistics".to_owned();
    // A partition is analysed with its parent.
    let query = format!(
        "{FOREIGN} select name from relation r where relkind in ('r', 'p', 'm') and not is_foreign
           and not exists (
             select from pg_catalog.pg_inherits i join relation p on p.oid = i.inhparent
             where i.inhrelid = r.oid and p.relkind = 'p' and not p.is_foreign)"
    );
    let rows = client.query(&query, &[]).await.doing(what)?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if names.is_empty() {
        return Ok(());
    }
    client.batch_execute(&format!("analyze {}", names.join(", "))).await.doing(what)
}

/// Tells of a line of the dump's table of contents whether restoring it would reach out of the copy, or would let it do so.
pub(crate) fn reaches_out(line: &str, foreign_views: &BTreeMap<u32, String>) -> bool {
    let Some((_, entry)) = line.split_once("; ") else { return false };
    let mut words = entry.splitn(3, ' ').skip(1);
    let oid = words.next().and_then(|oid| oid.parse().ok());
    let what = words.next().unwrap_or_default();
    what.starts_with("USER MAPPING ")
        || what.starts_with("MATERIALIZED VIEW DATA ")
            && oid.is_some_and(|oid| foreign_views.contains_key(&oid))
}

/// Parts a copy's subscriptions from their slots at the publisher, which are the original's: dropped as they are restored, they
/// would drop these.
///
/// # Errors
/// [`DbError::Privilege`] when the user may not.
pub async fn part_from_slots(client: &Client) -> Result<Vec<String>, DbError> {
    let rows = client
        .query(
            "select subname::text from pg_catalog.pg_subscription
             where subdbid = (select oid from pg_catalog.pg_database where datname = current_database())",
            &[],
        )
        .await
        .doing(|| "list the subscriptions".into())?;
    let mut parted = Vec::new();
    for row in rows {
        let name: String = row.get(0);
        let quoted = quote::ident(&name);
        for statement in [
            format!("alter subscription {quoted} disable"),
            format!("alter subscription {quoted} set (slot_name = none)"),
        ] {
            client.batch_execute(&statement).await.needing(
                || format!("part the subscription {name} of a copy from the original's slot"),
                || format!("ALTER SUBSCRIPTION {quoted} OWNER TO the user"),
            )?;
        }
        parted.push(name);
    }
    Ok(parted)
}

/// Drops the subscriptions of a copy; the slots at the publisher, which are the original's, stay.
pub(crate) async fn drop_subscriptions(client: &Client) -> Result<(), DbError> {
    for name in part_from_slots(client).await? {
        let drop = format!("drop subscription {}", quote::ident(&name));
        client.batch_execute(&drop).await.doing(|| format!("drop the subscription {name} of a copy"))?;
    }
    Ok(())
}

/// Drops a copy's log-ins on foreign servers: what a migration would do there, it would do to the real ones.
///
/// Only for a database that Piton made. The foreign servers are not asked.
///
/// # Errors
/// [`DbError::Privilege`] when the user may not.
pub async fn drop_user_mappings(copy: &Database) -> Result<Vec<String>, DbError> {
    let client = copy.connect().await?;
    let rows = client
        .query(
            "select srvname::text, nullif(umuser, 0) is null, usename::text from pg_catalog.pg_user_mappings",
            &[],
        )
        .await
        .doing(|| "list the log-ins on foreign servers".into())?;
    let mut dropped = Vec::new();
    for row in rows {
        let (server, public): (String, bool) = (row.get(0), row.get(1));
        let user = if public { "public".to_owned() } else { quote::ident(&row.get::<_, String>(2)) };
        let statement = format!("drop user mapping if exists for {user} server {}", quote::ident(&server));
        client.batch_execute(&statement).await.needing(
            || format!("drop a copy's log-in of {user} on the foreign server {server}"),
            || format!("ALTER SERVER {} OWNER TO the user", quote::ident(&server)),
        )?;
        dropped.push(format!("{user} at {server}"));
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_out_is_known_by_its_line() {
        let views = BTreeMap::from([(16400, "public.far".to_owned())]);
        for (line, yes) in [
            ("3339; 1418 16393 USER MAPPING - USER MAPPING postgres SERVER far postgres", true),
            ("3345; 0 16400 MATERIALIZED VIEW DATA public far postgres", true),
            ("3345; 0 16401 MATERIALIZED VIEW DATA public near postgres", false),
            ("216; 1259 16400 MATERIALIZED VIEW public far postgres", false),
            ("3345; 0 16400 TABLE DATA public USER MAPPING postgres", false),
            ("; Selected TOC Entries:", false),
        ] {
            assert_eq!(reaches_out(line, &views), yes, "{line}");
        }
    }
}
