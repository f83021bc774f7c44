//! What belongs to a database and not to its contents: neither a dump, nor a template, nor a rename carries it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::{DbError, identity, quote};

/// One `ALTER DATABASE ... SET` or `ALTER ROLE ... IN DATABASE ... SET`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The role it is for; `None` is everybody.
    pub role: Option<String>,
    /// The setting's name.
    pub name: String,
    /// Its value as stored.
    pub value: String,
}

/// One privilege on the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The role; `None` is PUBLIC.
    pub role: Option<String>,
    /// `CONNECT`, `CREATE` or `TEMPORARY`.
    pub privilege: String,
    /// Whether it may be handed on.
    pub with_grant_option: bool,
}

/// Owner, privileges, limits, settings, encoding, tablespace and comment of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// The owning role.
    pub owner: String,
    /// The privileges; `None` is the server's default.
    pub grants: Option<Vec<Grant>>,
    /// The connection limit; -1 is none.
    pub connection_limit: i32,
    /// Settings for the database, and for roles in it.
    pub settings: Vec<Setting>,
    /// The people's part of the comment.
    pub comment: Option<String>,
    /// Such as `UTF8`.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// The locale provider: `c` is libc, `i` is ICU, `b` the server's own (17 and newer).
    pub provider: String,
    /// The provider's locale, where it is not libc.
    pub locale: Option<String>,
    /// ICU's further rules of collation (16 and newer).
    pub icu_rules: Option<String>,
    /// The tablespace that its objects are in unless they say another.
    pub tablespace: String,
}

/// Where a database is when nobody says otherwise.
pub(crate) const DEFAULT_TABLESPACE: &str = "pg_default";

/// A statement, and what of it may be shown.
struct Statement {
    sql: String,
    /// The statement without a setting's value, which may be a secret.
    shown: String,
}

impl From<String> for Statement {
    fn from(sql: String) -> Self {
        Self { shown: sql.clone(), sql }
    }
}

impl Properties {
    /// Reads the properties of a database on the session's server.
    ///
    /// # Errors
    /// [`DbError::NoDatabase`].
    pub async fn read(client: &Client, database: &str) -> Result<Self, DbError> {
        let what = || format!("read the properties of {database}");
        // The locale's columns came with 15 and were renamed in 17; through jsonb a missing column is a null.
        let row = client
            .query_opt(
                "select pg_catalog.pg_get_userbyid(datdba)::text, datacl is not null, datconnlimit,
                        pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
                        coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c'),
                        coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale'),
                        pg_catalog.to_jsonb(d) ->> 'daticurules',
                        (select spcname::text from pg_catalog.pg_tablespace t where t.oid = d.dattablespace)
                 from pg_catalog.pg_database d where datname = $1",
                &[&database],
            )
            .await
            .doing(what)?
            .ok_or_else(|| DbError::NoDatabase { name: database.to_owned(), server: "this server".into() })?;
        let grants = client
            .query(
                "select r.rolname::text, a.privilege_type, a.is_grantable
                 from pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a
                 left join pg_catalog.pg_roles r on r.oid = a.grantee
                 where d.datname = $1 order by r.rolname, a.privilege_type",
                &[&database],
            )
            .await
            .doing(what)?;
        let settings = client
            .query(
                "select r.rolname::text, c.setting
                 from pg_catalog.pg_db_role_setting s
                 join pg_catalog.pg_database d on d.oid = s.setdatabase
                 left join pg_catalog.pg_roles r on r.oid = s.setrole, unnest(s.setconfig) c(setting)
                 where d.datname = $1 order by 1 nulls first, 2",
                &[&database],
            )
            .await
            .doing(what)?;
        let grants = grants
            .iter()
            .map(|row| Grant { role: row.get(0), privilege: row.get(1), with_grant_option: row.get(2) })
            .collect();
        let settings = settings.iter().filter_map(|row| {
            let (name, value) = row.get::<_, &str>(1).split_once('=')?;
            Some(Setting { role: row.get(0), name: name.to_owned(), value: value.to_owned() })
        });
        Ok(Self {
            owner: row.get(0),
            grants: row.get::<_, bool>(1).then_some(grants),
            connection_limit: row.get(2),
            settings: settings.collect(),
            comment: identity::own_comment(client, database).await?,
            encoding: row.get(3),
            collate: row.get(4),
            ctype: row.get(5),
            provider: row.get(6),
            locale: row.get(7),
            icu_rules: row.get(8),
            tablespace: row.get(9),
        })
    }

    /// Keeps of the settings those that another environment's copy takes along.
    ///
    /// Its server need not have the roles; and what an app or an extension calls its own may be a secret, or name production's
    /// services.
    #[must_use]
    pub(crate) fn for_others(mut self) -> Self {
        self.settings.retain(|setting| setting.role.is_none() && !setting.name.contains('.'));
        self
    }

    /// Returns the options of `CREATE DATABASE` that make an empty database read and sort text like this one, in its tablespace,
    /// on a server of this major version.
    pub(crate) fn create_options(&self, major: u32) -> String {
        let literal = |name: &str, value: &str| format!(" {name} = {}", quote::literal(value));
        let mut options = literal("ENCODING", &self.encoding)
            + &literal("LC_COLLATE", &self.collate)
            + &literal("LC_CTYPE", &self.ctype);
        match (self.provider.as_str(), &self.locale) {
            ("i", Some(locale)) => {
                options += &(" LOCALE_PROVIDER = icu".to_owned() + &literal("ICU_LOCALE", locale));
                if let Some(rules) = &self.icu_rules {
                    options += &literal("ICU_RULES", rules);
                }
            }
            // 17 and newer; written from the documentation.
            ("b", Some(locale)) => {
                options += &(" LOCALE_PROVIDER = builtin".to_owned() + &literal("BUILTIN_LOCALE", locale));
            }
            // Otherwise it would be the template's, which is whatever the cluster was made with.
            _ if major >= 15 => options += " LOCALE_PROVIDER = libc",
            _ => {}
        }
        if self.tablespace != DEFAULT_TABLESPACE {
            options += &format!(" TABLESPACE = {}", quote::ident(&self.tablespace));
        }
        options
    }

    /// Lists in words what another database has not like this one; a setting's value, which may be a secret, is not told.
    pub(crate) fn changes_to(&self, other: &Self) -> Vec<String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        let limit = |of: &Self| of.connection_limit.to_string();
        let mut changes: Vec<String> = [
            ("owner", self.owner.clone(), other.owner.clone()),
            ("connection limit", limit(self), limit(other)),
            ("encoding", self.encoding.clone(), other.encoding.clone()),
            ("LC_COLLATE", self.collate.clone(), other.collate.clone()),
            ("LC_CTYPE", self.ctype.clone(), other.ctype.clone()),
            ("locale provider", self.provider.clone(), other.provider.clone()),
            ("locale", text(&self.locale), text(&other.locale)),
            ("ICU rules", text(&self.icu_rules), text(&other.icu_rules)),
            ("tablespace", self.tablespace.clone(), other.tablespace.clone()),
            ("comment", text(&self.comment), text(&other.comment)),
        ]
        .into_iter()
        .filter(|(_, here, there)| here != there)
        .map(|(what, here, there)| format!("{what} was `{here}` and is `{there}`"))
        .collect();
        if self.may() != other.may() {
            changes.push("other privileges".into());
        }
        let setting = |setting: &Setting| match &setting.role {
            None => setting.name.clone(),
            Some(role) => format!("{} of {role}", setting.name),
        };
        let only = |a: &Self, b: &Self| -> BTreeSet<String> {
            a.settings.iter().filter(|one| !b.settings.contains(one)).map(setting).collect()
        };
        let settings = &only(self, other) | &only(other, self);
        changes.extend(settings.into_iter().map(|name| format!("the setting {name} is another")));
        changes
    }

    /// Returns who may do what, whoever granted it how often.
    fn may(&self) -> Option<BTreeMap<(&Option<String>, &str), bool>> {
        let mut may = BTreeMap::new();
        for grant in self.grants.as_ref()? {
            *may.entry((&grant.role, grant.privilege.as_str())).or_default() |= grant.with_grant_option;
        }
        Some(may)
    }

    /// Returns the statements that give a database these properties; encoding and comment aside.
    ///
    /// What the database has of its own is taken away first, so that the statements may be run again.
    fn statements(&self, database: &str, had: &Self) -> Vec<Statement> {
        let name = quote::ident(database);
        let role = |role: &Option<String>| role.as_deref().map_or_else(|| "PUBLIC".into(), quote::ident);
        let mut statements: Vec<Statement> = Vec::new();
        if had.owner != self.owner {
            let owner = quote::ident(&self.owner);
            statements.push(format!("ALTER DATABASE {name} OWNER TO {owner}").into());
        }
        if had.connection_limit != self.connection_limit {
            let limit = self.connection_limit;
            statements.push(format!("ALTER DATABASE {name} CONNECTION LIMIT {limit}").into());
        }
        if had.grants != self.grants {
            // The owner's own are there without having been granted.
            let owner = Some(self.owner.clone());
            for whom in had.grants.iter().flatten().map(|grant| &grant.role).chain([&owner]) {
                let role = role(whom);
                statements.push(format!("REVOKE ALL ON DATABASE {name} FROM {role}").into());
            }
            statements.push(format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC").into());
            let default = [("CONNECT", None), ("TEMPORARY", None)].map(|(privilege, role)| Grant {
                role,
                privilege: privilege.into(),
                with_grant_option: false,
            });
            for grant in self.grants.as_deref().unwrap_or(&default) {
                let option = if grant.with_grant_option { " WITH GRANT OPTION" } else { "" };
                let (privilege, role) = (&grant.privilege, role(&grant.role));
                statements.push(format!("GRANT {privilege} ON DATABASE {name} TO {role}{option}").into());
            }
        }
        let whose = |setting: &Setting| match &setting.role {
            None => format!("ALTER DATABASE {name}"),
            Some(role) => format!("ALTER ROLE {} IN DATABASE {name}", quote::ident(role)),
        };
        for setting in had.settings.iter().filter(|setting| !self.settings.contains(setting)) {
            let (whose, name) = (whose(setting), setting_name(&setting.name));
            statements.push(format!("{whose} RESET {name}").into());
        }
        for setting in self.settings.iter().filter(|setting| !had.settings.contains(setting)) {
            let set = format!("{} SET {} TO", whose(setting), setting_name(&setting.name));
            let value = setting_value(&setting.name, &setting.value);
            statements.push(Statement { sql: format!("{set} {value}"), shown: format!("{set} ...") });
        }
        statements
    }

    /// Hands a database on the session's server over to the owner.
    ///
    /// # Errors
    /// [`DbError::Privilege`] when the user may not.
    pub(crate) async fn apply_owner(&self, client: &Client, database: &str) -> Result<(), DbError> {
        let had = Self::read(client, database).await?;
        let only_owner = Self { owner: self.owner.clone(), ..had.clone() };
        only_owner.run(client, database, &had).await
    }

    /// Gives a database on the session's server these settings, and nothing else of these properties.
    ///
    /// # Errors
    /// [`DbError::Privilege`] when the user may not.
    pub(crate) async fn apply_settings(&self, client: &Client, database: &str) -> Result<(), DbError> {
        let had = Self::read(client, database).await?;
        let only_settings = Self { settings: self.settings.clone(), ..had.clone() };
        only_settings.run(client, database, &had).await
    }

    /// Gives a database on the session's server these properties; its mark stays.
    ///
    /// # Errors
    /// [`DbError::Privilege`] when the user may not.
    pub(crate) async fn apply(&self, client: &Client, database: &str) -> Result<(), DbError> {
        let had = Self::read(client, database).await?;
        self.run(client, database, &had).await
    }

    async fn run(&self, client: &Client, database: &str, had: &Self) -> Result<(), DbError> {
        for statement in self.statements(database, had) {
            client.batch_execute(&statement.sql).await.needing(
                || format!("run `{}`", statement.shown),
                || format!("GRANT {} TO the user; ALTER ROLE the user CREATEDB", quote::ident(&self.owner)),
            )?;
        }
        Ok(())
    }
}

fn setting_name(name: &str) -> String {
    name.split('.').map(quote::ident).collect::<Vec<_>>().join(".")
}

/// Renders a stored value: list settings are stored as quoted names, every other as plain text.
fn setting_value(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "search_path",
        "temp_tablespaces",
        "local_preload_libraries",
        "session_preload_libraries",
        "shared_preload_libraries",
        "unix_socket_directories",
    ];
    if LISTS.contains(&name.to_ascii_lowercase().as_str()) {
        split_names(value).iter().map(|name| quote::literal(name)).collect::<Vec<_>>().join(", ")
    } else {
        quote::literal(value)
    }
}

/// Splits `"$user", public` into its names.
fn split_names(list: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => name.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            c if c.is_whitespace() && !quoted => {}
            c => name.push(c),
        }
    }
    names.push(name);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_settings_keep_their_names() {
        assert_eq!(
            setting_value("search_path", r#""$user", "a,""b", public"#),
            r#"'$user', 'a,"b', 'public'"#
        );
        assert_eq!(setting_value("search_path", r#""""#), "''");
        assert_eq!(setting_value("work_mem", "4MB"), "'4MB'");
        assert_eq!(setting_name("app.tenant"), r#""app"."tenant""#);
    }
}
