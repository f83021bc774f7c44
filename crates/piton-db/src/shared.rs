//! What all databases of a server share, and a copy of one therefore has no copy of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::{Database, DbError};

/// What the user may change of it, each with what differs from one version to the next.
///
/// What the user may not change, others do meanwhile. Databases that carry Piton's mark come and go with other releases; the
/// environments' own are looked at all the same.
const LISTING: &str = r#"
    with me as (select oid, rolsuper, rolsuper or rolcreaterole as makes_roles from pg_roles where rolname = current_user),
    db as (
        select d.oid, d.datname, d.xmin::text as version from pg_database d, me
        where (me.rolsuper or pg_has_role(me.oid, d.datdba, 'member')) and d.datname not like 'piton\_new\_%'
          and coalesce(shobj_description(d.oid, 'pg_database'), '')
              !~ '^piton: .*"purpose":"(clone|adopted|golden|rehearsal|replaced)"'
    )
    select format('the role %I', r.rolname), md5(r::text) from pg_roles r, me where me.makes_roles or r.oid = me.oid
    union all
    select format('the membership of %s in %s', m.member::regrole, m.roleid::regrole), string_agg(m.admin_option::text, ',' order by m.grantor)
    from pg_auth_members m, me
    where me.makes_roles or pg_has_role(me.oid, m.roleid, 'member with admin option') group by m.member, m.roleid
    union all
    select format('the database %I', datname), version from db
    union all
    select format('the configuration of %s in the database %I', coalesce(nullif(s.setrole, 0)::regrole::text, 'all roles'), db.datname),
           md5(s.setconfig::text)
    from pg_db_role_setting s join db on db.oid = s.setdatabase
    union all
    select format('the tablespace %I', t.spcname), t.xmin::text from pg_tablespace t, me
    where me.rolsuper or pg_has_role(me.oid, t.spcowner, 'member')
    union all
    select format('the subscription %I', s.subname), '' from pg_subscription s, me
    where me.rolsuper or pg_has_role(me.oid, s.subowner, 'member')"#;

/// What only a superuser may read, and change: passwords, by the versions of their rows, and what `ALTER SYSTEM` has written.
const OF_SUPERUSER: &str = r"
    select format('the role %I', rolname), xmin::text from pg_authid
    union all
    select format('the server''s setting %s', name), md5(setting) from pg_file_settings where sourcefile like '%postgresql.auto.conf'";

/// Who may set what, of 15 and newer.
const OF_PARAMETERS: &str =
    "select format('the list of who may set %s', parname), md5(paracl::text) from pg_parameter_acl";

/// Roles, databases, tablespaces and settings of a server, as far as a user may change them; of what may be secret, hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared(BTreeMap<String, String>);

impl Shared {
    /// Reads what the database's server has.
    ///
    /// # Errors
    /// When the database cannot be reached or a catalogue not be read.
    pub async fn of(database: &Database) -> Result<Self, DbError> {
        let client = database.connect().await?;
        crate::target::pin(&client).await?;
        let mut listed = read(&client, LISTING).await?;
        let what = || "look whether the user is a superuser".to_owned();
        let may = "select rolsuper, pg_catalog.current_setting('server_version_num')::int >= 150000
                   from pg_catalog.pg_roles where rolname = current_user";
        let row = client.query_one(may, &[]).await.doing(what)?;
        let (superuser, has_parameters): (bool, bool) = (row.get(0), row.get(1));
        if superuser {
            for (object, version) in read(&client, OF_SUPERUSER).await? {
                listed.entry(object).or_default().push_str(&version);
            }
            if has_parameters {
                listed.extend(read(&client, OF_PARAMETERS).await?);
            }
        }
        Ok(Self(listed))
    }

    /// Lists what was made, changed or dropped until the other was read.
    pub fn changes_to(&self, other: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (object, version) in &self.0 {
            match other.0.get(object) {
                None => changes.push(format!("{object} was dropped")),
                Some(later) if later != version => changes.push(format!("{object} was changed")),
                Some(_) => {}
            }
        }
        let new = other.0.keys().filter(|object| !self.0.contains_key(*object));
        changes.extend(new.map(|object| format!("{object} was made")));
        changes
    }
}

async fn read(client: &Client, listing: &str) -> Result<BTreeMap<String, String>, DbError> {
    let rows = client.query(listing, &[]).await.doing(|| "list what the server's databases share".into())?;
    Ok(rows.iter().map(|row| (row.get(0), row.get::<_, Option<String>>(1).unwrap_or_default())).collect())
}
