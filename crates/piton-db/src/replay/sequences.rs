//! Where sequences stand: a number that was given out is given to nobody else.

use tokio_postgres::Client;

use super::layout::{Layout, Sequence};
use crate::error::Doing;
use crate::{DbError, quote};

impl Sequence {
    fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.name)
    }

    /// Moves it on behind a number, if it does not stand there already; a narrower one ends earlier.
    pub(super) async fn move_behind(&self, client: &Client, used: i64) -> Result<(), DbError> {
        let name = self.quoted();
        let further = if self.ascends { ">" } else { "<" };
        let sql = format!(
            "select pg_catalog.setval(q.seqrelid, least(greatest($1, q.seqmin), q.seqmax))
             from pg_catalog.pg_sequence q, {name} s
             where q.seqrelid = {}::regclass and ($1 {further} s.last_value or $1 = s.last_value and not s.is_called)",
            quote::literal(&name)
        );
        client.execute(&sql, &[&used]).await.map(drop).doing(|| format!("move the sequence {name} on"))
    }

    /// Moves it on behind what stands in the columns that it numbers.
    pub(super) async fn move_behind_used(&self, client: &Client, layout: &Layout) -> Result<(), DbError> {
        let end = if self.ascends { "max" } else { "min" };
        for (table, column) in &self.numbers {
            let Some(table) = layout.table(*table) else { continue };
            let sql = format!("select {end}({})::bigint from {}", quote::ident(column), table.quoted());
            let what = || format!("look which numbers of {} are used", self.quoted());
            if let Some(used) = client.query_one(&sql, &[]).await.doing(what)?.get(0) {
                self.move_behind(client, used).await?;
            }
        }
        Ok(())
    }
}
