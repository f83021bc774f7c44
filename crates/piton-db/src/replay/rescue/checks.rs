//! What the server watches over by triggers of its own, which do not fire in a session that replicates: asked for row by row.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::super::layout::{ForeignKey, Layout, Table};
use crate::error::Doing;
use crate::{DbError, quote};

/// What has to be looked at in the tables that are loaded.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// By table: the keys by which it refers to others, with the quoted names of these.
    refers: BTreeMap<u32, Vec<(ForeignKey, String)>>,
    /// By table: the keys by which others refer to it, with the quoted names of these.
    referred: BTreeMap<u32, Vec<(ForeignKey, String)>>,
    /// By table: what is unique, or excludes others, and is looked at only in the end.
    deferred: BTreeMap<u32, Vec<Deferred>>,
}

/// A constraint that is looked at only in the end.
#[derive(Clone, Debug)]
struct Deferred {
    name: String,
    /// The columns, each with its operator.
    columns: Vec<(String, String)>,
}

/// A question about one row; its parameters are those of the row's key.
pub(super) struct Check {
    pub(super) name: String,
    pub(super) sql: String,
    /// The server's own code for what it is about.
    pub(super) code: &'static str,
    /// Whether something has to be found; otherwise nothing may.
    pub(super) is_needed: bool,
}

/// Constraints that are looked at in the end, if not before, with the operators by which two rows are in each other's way.
const DEFERRED: &str = "
    select c.conrelid, c.conname::text, array_agg(a.attname::text order by k.at),
           array_agg(pg_catalog.format('operator(%I.%s)', n.nspname, o.oprname) order by k.at)
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_index i on i.indexrelid = c.conindid and i.indexprs is null and i.indpred is null
    cross join pg_catalog.unnest(c.conkey) with ordinality k(number, at)
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.number
    join pg_catalog.pg_opclass p on p.oid = i.indclass[k.at - 1]
    join pg_catalog.pg_operator o on o.oid = coalesce(c.conexclop[k.at],
         (select m.amopopr from pg_catalog.pg_amop m where m.amopfamily = p.opcfamily and m.amopstrategy = 3
          and m.amoplefttype = p.opcintype and m.amoprighttype = p.opcintype))
    join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
    where c.condeferrable and c.contype in ('p', 'u', 'x') and c.conrelid = any($1)
    group by c.oid, c.conrelid, c.conname";

impl Checks {
    pub(super) async fn read(client: &Client, layout: &Layout, tables: &[&Table]) -> Result<Self, DbError> {
        let mut checks = Self::default();
        for table in tables {
            let ranks = [table.oid, layout.top(table).oid];
            for key in &layout.foreign_keys {
                if ranks.contains(&key.table)
                    && let Some(to) = layout.table(key.to)
                {
                    checks.refers.entry(table.oid).or_default().push((key.clone(), to.own_rows()));
                }
                if ranks.contains(&key.to)
                    && let Some(from) = layout.table(key.table)
                {
                    checks.referred.entry(table.oid).or_default().push((key.clone(), from.own_rows()));
                }
            }
        }
        let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
        let rows = client.query(DEFERRED, &[&oids]).await.doing(|| "look for deferred constraints".into())?;
        for row in rows {
            let columns =
                row.get::<_, Vec<String>>(2).into_iter().zip(row.get::<_, Vec<String>>(3)).collect();
            checks.deferred.entry(row.get(0)).or_default().push(Deferred { name: row.get(1), columns });
        }
        Ok(checks)
    }

    /// Lists what has to be asked when these columns of a row were written that the condition finds.
    pub(super) fn of(&self, table: &Table, columns: &[&str], here: &str) -> Vec<Check> {
        let is_among = |name: &String| columns.contains(&name.as_str());
        let this = format!("{} where {here}", table.own_rows());
        let mut checks = Vec::new();
        for (key, to) in self.refers.get(&table.oid).into_iter().flatten() {
            if !key.columns.iter().any(is_among) {
                continue;
            }
            // What is NULL refers to nothing; with MATCH FULL only if all of it is.
            let null = key.columns.iter().map(|column| format!("g.{} is null", quote::ident(column)));
            let null = null.collect::<Vec<_>>().join(if key.full { " and " } else { " or " });
            // It must not go before this transaction ends.
            let sql = format!(
                "with it as materialized (select * from {this}),
                      found as (select 1 from {to} p join it g on {} for key share of p)
                 select 1 from it g where {null} union all select * from found",
                key.refers(|column| format!("p.{}", quote::ident(column))),
            );
            checks.push(Check { name: key.name.clone(), sql, code: "23503", is_needed: true });
        }
        for deferred in self.deferred.get(&table.oid).into_iter().flatten() {
            if !deferred.columns.iter().any(|(column, _)| is_among(column)) {
                continue;
            }
            let same: Vec<String> = (deferred.columns.iter())
                .map(|(column, operator)| format!("o.{0} {operator} g.{0}", quote::ident(column)))
                .collect();
            let sql = format!(
                "select 1 from {0} o join (select tableoid as \"!tab\", ctid as \"!at\", * from {0} where {here}) g
                 on {1} and (o.tableoid, o.ctid) <> (g.\"!tab\", g.\"!at\") limit 1",
                table.own_rows(),
                same.join(" and "),
            );
            checks.push(Check { name: deferred.name.clone(), sql, code: "23505", is_needed: false });
        }
        checks
    }

    /// Lists what must not be found before these columns of a row are written: who refers to what they hold.
    pub(super) fn referred(&self, table: &Table, columns: &[&str], here: &str) -> Vec<Check> {
        let keys = self.referred.get(&table.oid).into_iter().flatten();
        let keys = keys.filter(|(key, _)| key.to_columns.iter().any(|name| columns.contains(&name.as_str())));
        let check = |(key, from): &(ForeignKey, String)| {
            let sql = format!(
                "select 1 from {from} g join (select * from {} where {here}) p on {} limit 1",
                table.own_rows(),
                key.refers(|column| format!("p.{}", quote::ident(column)))
            );
            Check { name: key.name.clone(), sql, code: "23503", is_needed: false }
        };
        keys.map(check).collect()
    }
}

/// Tells whether writing to one of these tables fires what somebody has made.
pub(super) async fn have_triggers(client: &Client, tables: &[&Table]) -> Result<bool, DbError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let sql = "select exists (select from pg_catalog.pg_trigger t
               where t.tgrelid = any($1) and not t.tgisinternal and t.tgenabled <> 'D'
                 and not pg_catalog.starts_with(t.tgname, $2))";
    let what = || "look for triggers".to_owned();
    Ok(client.query_one(sql, &[&oids, &crate::capture::triggers::TRIGGER]).await.doing(what)?.get(0))
}
