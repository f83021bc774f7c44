use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::error::Doing as _;
use crate::{DbError, quote};

/// What keeps a server's log from being read, or later writes from being put into a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is missing, in words.
    pub what: String,
    /// What mends it: a statement, or what to do where it takes more than that.
    pub mend: String,
}

/// Lists what the server lacks for reading a database's log and for putting what it tells into a copy, as the session's user.
///
/// What a plugin's absence looks like is seen by a superuser alone. Not for a session within a transaction: it tries a setting in
/// one of its own.
///
/// # Errors
/// When the server cannot be asked.
pub async fn missing(client: &Client) -> Result<Vec<Missing>, DbError> {
    let row = client.query_one(FACTS, &[]).await.doing(|| "see whether the log can be read".into())?;
    let facts = Facts::of(&row);
    let mut missing = facts.settings();
    missing.extend(facts.user(client).await?);
    if facts.superuser && lacks_plugin(client).await? {
        missing.push(Missing {
            what: "the plugin test_decoding is not installed".into(),
            mend: "install the modules that come with PostgreSQL, as the package postgresql-contrib".into(),
        });
    }
    Ok(missing)
}

const FACTS: &str = "
    with users as (
        select u.rolname, u.rolsuper, u.rolname = current_user as acts,
               u.rolsuper or u.rolreplication or exists (
                   select from pg_catalog.pg_roles r
                   where r.rolname = 'rds_replication' and pg_catalog.pg_has_role(u.oid, r.oid, 'MEMBER')) as replicates
        from pg_catalog.pg_roles u where u.rolname in (session_user, current_user))
    select pg_catalog.current_setting('wal_level'),
           pg_catalog.current_setting('max_slot_wal_keep_size', true),
           pg_catalog.current_setting('max_replication_slots')::int8,
           (select count(*) from pg_catalog.pg_replication_slots),
           pg_catalog.current_setting('max_wal_senders')::int8,
           (select count(*) from pg_catalog.pg_stat_replication),
           pg_catalog.current_setting('server_encoding'),
           pg_catalog.current_setting('synchronous_standby_names'),
           (select rolsuper from users where acts),
           current_user::text,
           (select pg_catalog.array_agg(rolname::text order by acts) from users where not replicates),
           pg_catalog.current_setting('server_version_num')::int4 >= 150000,
           (select rolname::text from pg_catalog.pg_roles
            where rolname in ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin') limit 1)";

/// What the server says of itself.
struct Facts {
    wal_level: String,
    /// Empty in a server that has no such bound.
    keep: String,
    slots: (i64, i64),
    senders: (i64, i64),
    encoding: String,
    standbys: String,
    superuser: bool,
    user: String,
    /// The users that may not replicate: who logs in, and who acts.
    barred: Vec<String>,
    /// Whether the privilege to set one parameter can be granted.
    grants_settings: bool,
    service: Service,
}

/// Who lets the server's settings be changed.
#[derive(Clone, Copy, PartialEq)]
enum Service {
    Own,
    Amazon,
    Google,
    Azure,
}

impl Facts {
    fn of(row: &Row) -> Self {
        Self {
            wal_level: row.get(0),
            keep: row.get::<_, Option<String>>(1).unwrap_or_default(),
            slots: (row.get(2), row.get(3)),
            senders: (row.get(4), row.get(5)),
            encoding: row.get(6),
            standbys: row.get(7),
            superuser: row.get::<_, Option<bool>>(8) == Some(true),
            user: row.get(9),
            barred: row.get::<_, Option<_>>(10).unwrap_or_default(),
            grants_settings: row.get(11),
            service: match row.get::<_, Option<&str>>(12) {
                Some("rds_superuser") => Service::Amazon,
                Some("cloudsqlsuperuser") => Service::Google,
                Some(_) => Service::Azure,
                None => Service::Own,
            },
        }
    }

    fn settings(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        if self.wal_level != "logical" {
            missing.push(Missing {
                what: format!("wal_level is {}: the log does not tell the rows", self.wal_level),
                mend: match self.service {
                    Service::Amazon => self.set("rds.logical_replication", "1", true),
                    Service::Google => self.set("cloudsql.logical_decoding", "on", true),
                    Service::Own | Service::Azure => self.set("wal_level", "logical", true),
                },
            });
        }
        if matches!(self.keep.as_str(), "-1" | "") {
            missing.push(Missing {
                what: "max_slot_wal_keep_size is -1: a slot that nobody reads would fill the disk".into(),
                mend: match self.keep.as_str() {
                    "" => "PostgreSQL 13 or newer".into(),
                    _ => self.set("max_slot_wal_keep_size", "'10GB'", false),
                },
            });
        }
        for (setting, (most, taken), what) in [
            ("max_replication_slots", self.slots, "replication slot"),
            ("max_wal_senders", self.senders, "reader of the log"),
        ] {
            if taken >= most {
                missing.push(Missing {
                    what: format!("{setting} is {most}: there is no room for another {what}"),
                    mend: self.set(setting, &(most + 10).to_string(), true),
                });
            }
        }
        if self.encoding != "UTF8" {
            missing.push(Missing {
                what: format!("the database's encoding is {}, not UTF8", self.encoding),
                mend: "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, filled from a dump".into(),
            });
        }
        if self.standbys.contains('*') {
            missing.push(Missing {
                what: format!(
                    "synchronous_standby_names is {}: it takes every reader of the log for a standby that commits are safe with",
                    self.standbys
                ),
                mend: self.set("synchronous_standby_names", "the names of the standbys", false),
            });
        }
        missing
    }

    /// Says how a setting of the whole server is changed.
    fn set(&self, name: &str, value: &str, restart: bool) -> String {
        let place = match self.service {
            Service::Own if restart => {
                return format!("ALTER SYSTEM SET {name} = {value}, then restart the server");
            }
            Service::Own => return format!("ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf()"),
            Service::Amazon => "the instance's parameter group",
            Service::Google => "the instance's flags",
            Service::Azure => "the server's parameters",
        };
        let then = if restart { ", then restart it" } else { "" };
        format!("set {name} = {value} in {place}{then}")
    }

    async fn user(&self, client: &Client) -> Result<Vec<Missing>, DbError> {
        let mut missing = Vec::new();
        for barred in &self.barred {
            let user = quote::ident(barred);
            missing.push(Missing {
                what: format!("{barred} may not read the log: it lacks REPLICATION"),
                mend: match self.service {
                    Service::Amazon => format!("GRANT rds_replication TO {user}"),
                    _ => format!("ALTER ROLE {user} REPLICATION"),
                },
            });
        }
        missing.extend(self.replaying(client).await?);
        Ok(missing)
    }

    async fn replaying(&self, client: &Client) -> Result<Option<Missing>, DbError> {
        if may_replay(client).await? {
            return Ok(None);
        }
        let user = quote::ident(&self.user);
        Ok(Some(Missing {
            what: format!(
                "{} may not put rows into a copy without its triggers: it may not set session_replication_role",
                self.user
            ),
            mend: match self.grants_settings {
                true => format!("GRANT SET ON PARAMETER session_replication_role TO {user}"),
                false => format!("ALTER ROLE {user} SUPERUSER"),
            },
        }))
    }
}

/// Says what the server lacks for putting rows into a copy, wherever they come from.
pub(super) async fn replaying(client: &Client) -> Result<Option<Missing>, DbError> {
    let row = client.query_one(FACTS, &[]).await.doing(|| "see whether a copy can be written".into())?;
    Facts::of(&row).replaying(client).await
}

/// Tries it: a managed server has rules of its own, which no catalogue tells.
async fn may_replay(client: &Client) -> Result<bool, DbError> {
    let tried = client.batch_execute("begin; set local session_replication_role = replica; rollback").await;
    match tried {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            client.batch_execute("rollback").await.doing(|| "end a try".into())?;
            Ok(false)
        }
        Err(error) => Err(error).doing(|| "try to set session_replication_role".into()),
    }
}

/// Loads the plugin, as the server does for a slot.
async fn lacks_plugin(client: &Client) -> Result<bool, DbError> {
    match client.batch_execute("load 'test_decoding'").await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FILE) => Ok(true),
        other => other.doing(|| "load the plugin test_decoding".into()).map(|()| false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            wal_level: "logical".into(),
            keep: "10GB".into(),
            slots: (10, 9),
            senders: (10, 0),
            encoding: "UTF8".into(),
            standbys: "FIRST 1 (a, \"b\")".into(),
            superuser: false,
            user: "app".into(),
            barred: Vec::new(),
            grants_settings: true,
            service: Service::Own,
        }
    }

    fn mends(facts: &Facts) -> Vec<String> {
        facts.settings().into_iter().map(|missing| missing.mend).collect()
    }

    #[test]
    fn a_server_with_room_lacks_nothing() {
        assert_eq!(facts().settings(), []);
    }

    #[test]
    fn what_is_missing_is_mended_where_the_server_is_kept() {
        let bare = |service| Facts {
            wal_level: "replica".into(),
            keep: "-1".into(),
            slots: (10, 10),
            service,
            ..facts()
        };
        assert_eq!(
            mends(&bare(Service::Own)),
            [
                "ALTER SYSTEM SET wal_level = logical, then restart the server",
                "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf()",
                "ALTER SYSTEM SET max_replication_slots = 20, then restart the server",
            ]
        );
        assert_eq!(
            mends(&bare(Service::Amazon)),
            [
                "set rds.logical_replication = 1 in the instance's parameter group, then restart it",
                "set max_slot_wal_keep_size = '10GB' in the instance's parameter group",
                "set max_replication_slots = 20 in the instance's parameter group, then restart it",
            ]
        );
        let google = "set cloudsql.logical_decoding = on in the instance's flags, then restart it";
        assert_eq!(mends(&bare(Service::Google))[0], google);
        let azure = "set wal_level = logical in the server's parameters, then restart it";
        assert_eq!(mends(&bare(Service::Azure))[0], azure);
    }

    #[test]
    fn what_no_setting_mends_is_named_as_well() {
        let facts = Facts {
            encoding: "SQL_ASCII".into(),
            standbys: "ANY 1 (*)".into(),
            keep: String::new(),
            ..facts()
        };
        let what: Vec<String> = facts.settings().into_iter().map(|missing| missing.what).collect();
        assert_eq!(what.len(), 3);
        assert!(what[1].contains("SQL_ASCII") && what[2].contains("ANY 1 (*)"), "{what:?}");
    }
}
