//! Takes from a copy what would reach out of it: a copy that is started must not act as its original.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::{Database, DbError, quote};

/// What was taken from a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neutralised {
    /// Subscriptions, which would fetch the publisher's changes: dropped.
    pub subscriptions: Vec<String>,
    /// Log-ins on foreign servers, through which it would write elsewhere: dropped, as `user at server`.
    pub user_mappings: Vec<String>,
    /// How many jobs of pg_cron were switched off.
    pub jobs: u64,
}

impl Neutralised {
    /// Says what was taken, in words; `None` when there was nothing.
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
            count(self.jobs, "scheduled job", "scheduled jobs"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { None } else { Some(parts.join(", ")) }
    }
}

/// Drops a copy's subscriptions and its log-ins on foreign servers, and switches its scheduled jobs off; may be repeated.
///
/// Only for a database that Piton made. The publisher and the foreign servers are not asked.
///
/// # Errors
/// [`DbError::Privilege`] when the user may not.
pub async fn apply(copy: &Database) -> Result<Neutralised, DbError> {
    let client = copy.connect().await?;
    Ok(Neutralised {
        subscriptions: drop_subscriptions(&client).await?,
        user_mappings: drop_user_mappings(&client).await?,
        jobs: switch_off_jobs(&client).await?,
    })
}

/// Drops the subscriptions of the session's database; the slots at the publisher, which are the original's, stay.
pub(crate) async fn drop_subscriptions(client: &Client) -> Result<Vec<String>, DbError> {
    let rows = client
        .query(
            "select subname::text from pg_catalog.pg_subscription
             where subdbid = (select oid from pg_catalog.pg_database where datname = current_database())",
            &[],
        )
        .await
        .doing(|| "list the subscriptions".into())?;
    let mut dropped = Vec::new();
    for row in rows {
        let name: String = row.get(0);
        let quoted = quote::ident(&name);
        for statement in [
            format!("alter subscription {quoted} disable"),
            format!("alter subscription {quoted} set (slot_name = none)"),
            format!("drop subscription {quoted}"),
        ] {
            client.batch_execute(&statement).await.needing(
                || format!("drop the subscription {name} of a copy"),
                || format!("ALTER SUBSCRIPTION {quoted} OWNER TO the user"),
            )?;
        }
        dropped.push(name);
    }
    Ok(dropped)
}

async fn drop_user_mappings(client: &Client) -> Result<Vec<String>, DbError> {
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

async fn switch_off_jobs(client: &Client) -> Result<u64, DbError> {
    let there: bool = client
        .query_one("select pg_catalog.to_regclass('cron.job') is not null", &[])
        .await
        .doing(|| "look for scheduled jobs".into())?
        .get(0);
    if !there {
        return Ok(0);
    }
    client.execute("update cron.job set active = false where active", &[]).await.needing(
        || "switch a copy's scheduled jobs off".into(),
        || "GRANT UPDATE ON cron.job TO the user".into(),
    )
}
