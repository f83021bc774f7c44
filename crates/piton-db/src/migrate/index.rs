//! What became of a `CREATE INDEX CONCURRENTLY` whose end nobody saw.

use tokio_postgres::Client;

use super::script::{Statement, Token};
use crate::error::Doing;
use crate::{DbError, quote};

/// The index that a statement builds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConcurrentIndex {
    name: String,
    /// The table, quoted, with its schema when the statement names one.
    table: String,
}

/// How an index stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Absent,
    Invalid,
    Valid,
}

impl ConcurrentIndex {
    /// Reads the index from its statement; `None` when it is another statement, or names no index.
    pub(super) fn of(statement: &Statement) -> Option<Self> {
        let tokens = statement.tokens();
        let mut rest = tokens.as_slice();
        take(&mut rest, &["CREATE"])?;
        take(&mut rest, &["UNIQUE"]);
        take(&mut rest, &["INDEX", "CONCURRENTLY"])?;
        take(&mut rest, &["IF", "NOT", "EXISTS"]);
        let (Token::Name(name), after) = rest.split_first()? else { return None };
        rest = after;
        take(&mut rest, &["ON"])?;
        take(&mut rest, &["ONLY"]);
        let table = match rest {
            [Token::Name(schema), Token::Other('.'), Token::Name(table), ..] => {
                quote::qualified(schema, table)
            }
            [Token::Name(table), ..] => quote::ident(table),
            _ => return None,
        };
        Some(Self { name: name.clone(), table })
    }

    /// Looks for the index on its table.
    pub(super) async fn standing(&self, client: &Client) -> Result<Standing, DbError> {
        Ok(self.find(client).await?.map_or(Standing::Absent, |(_, standing)| standing))
    }

    /// Drops what an unfinished build has left, which only costs writers time.
    pub(super) async fn drop_invalid(&self, client: &Client) -> Result<(), DbError> {
        if let Some((index, Standing::Invalid)) = self.find(client).await? {
            let what = || format!("drop the invalid index {index}");
            client.batch_execute("set lock_timeout = 0").await.doing(what)?;
            client.batch_execute(&format!("drop index concurrently {index}")).await.doing(what)?;
        }
        Ok(())
    }

    async fn find(&self, client: &Client) -> Result<Option<(String, Standing)>, DbError> {
        let row = client
            .query_opt(
                "select n.nspname::text, c.relname::text, i.indisvalid
                 from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                 where i.indrelid = pg_catalog.to_regclass($1) and c.relname = $2",
                &[&self.table, &self.name],
            )
            .await
            .doing(|| format!("look for the index {}", self.name))?;
        Ok(row.map(|row| {
            let standing = if row.get(2) { Standing::Valid } else { Standing::Invalid };
            (quote::qualified(row.get(0), row.get(1)), standing)
        }))
    }
}

/// Steps over the words when they come next.
fn take(rest: &mut &[Token], words: &[&str]) -> Option<()> {
    let (head, tail) = rest.split_at_checked(words.len())?;
    let fit = head
        .iter()
        .zip(words)
        .all(|(token, word)| matches!(token, Token::Name(name) if name.eq_ignore_ascii_case(word)));
    fit.then(|| *rest = tail)
}

#[cfg(test)]
mod tests {
    use super::super::script::split;
    use super::*;

    fn index(statement: &str) -> Option<(String, String)> {
        let index = ConcurrentIndex::of(&split(statement).unwrap()[0])?;
        Some((index.name, index.table))
    }

    #[test]
    fn index_and_table_are_read_as_the_server_reads_them() {
        for (statement, name, table) in [
            ("create index concurrently A_id on T (a)", "a_id", "\"t\""),
            (
                "create unique /* ; */ index concurrently if not exists i on only S.t using gin (a)",
                "i",
                "\"s\".\"t\"",
            ),
            (
                "CREATE INDEX CONCURRENTLY \"I \"\"1\"\"\" -- on x\n on \"Büro\".\"T\"(a) where b = 'on'",
                "I \"1\"",
                "\"Büro\".\"T\"",
            ),
        ] {
            assert_eq!(index(statement), Some((name.into(), table.into())), "{statement}");
        }
        for other in [
            "create index concurrently on t (a)",
            "create index i on t (a)",
            "drop index concurrently i",
            "vacuum t",
        ] {
            assert_eq!(index(other), None, "{other}");
        }
    }
}
