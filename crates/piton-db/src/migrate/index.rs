//! What became of a `CREATE INDEX CONCURRENTLY` that failed or whose end nobody saw.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

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

    /// Returns the index's name, quoted and with its schema, which is the table's; `None` when there is no such table.
    pub(super) async fn name(&self, client: &Client) -> Result<Option<String>, DbError> {
        let row = client
            .query_opt(
                "select n.nspname::text from pg_catalog.pg_class c
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                 where c.oid = pg_catalog.to_regclass($1)",
                &[&self.table],
            )
            .await
            .doing(|| format!("look for the table {}", self.table))?;
        Ok(row.map(|row| quote::qualified(row.get(0), &self.name)))
    }
}

/// Reads which index a statement drops concurrently, quoted as the statement names it.
pub(super) fn dropped(statement: &Statement) -> Option<String> {
    let tokens = statement.tokens();
    let mut rest = tokens.as_slice();
    take(&mut rest, &["DROP", "INDEX", "CONCURRENTLY"])?;
    take(&mut rest, &["IF", "EXISTS"]);
    match rest {
        [Token::Name(schema), Token::Other('.'), Token::Name(index), ..] => {
            Some(quote::qualified(schema, index))
        }
        [Token::Name(index), ..] => Some(quote::ident(index)),
        _ => None,
    }
}

/// Looks for an index by its quoted name.
pub(super) async fn standing(client: &Client, index: &str) -> Result<Standing, DbError> {
    let row = client
        .query_opt(
            "select indisvalid from pg_catalog.pg_index where indexrelid = pg_catalog.to_regclass($1)",
            &[&index],
        )
        .await
        .doing(|| format!("look for the index {index}"))?;
    Ok(match row.map(|row| row.get(0)) {
        None => Standing::Absent,
        Some(false) => Standing::Invalid,
        Some(true) => Standing::Valid,
    })
}

/// Drops what an unfinished build has left, which only costs writers time; what somebody builds just now is not that.
///
/// Of another role's build the server shows the process alone, whose locks name the table. A concurrent `REINDEX` builds a second
/// index and holds a lock on the first.
///
/// Others are waited for, in nobody's way; without end when `patience` is zero.
///
/// # Errors
/// [`DbError::InUse`] when `patience` ran out.
pub(super) async fn drop_invalid(client: &Client, index: &str, patience: Duration) -> Result<(), DbError> {
    let what = || format!("drop the invalid index {index}");
    let left = client
        .query_opt(
            "select from pg_catalog.pg_index where indexrelid = pg_catalog.to_regclass($1) and not indisvalid
               and not exists (select from pg_catalog.pg_stat_progress_create_index p
                               where datname = current_database() and (index_relid = indexrelid
                                 or exists (select from pg_catalog.pg_locks l where l.pid = p.pid and locktype = 'relation'
                                              and (relation = indexrelid or (p.index_relid is null and relation = indrelid)))))",
            &[&index],
        )
        .await
        .doing(what)?;
    if left.is_none() {
        return Ok(());
    }
    client.batch_execute(&format!("set lock_timeout = {}", patience.as_millis())).await.doing(what)?;
    match client.batch_execute(&format!("drop index concurrently {index}")).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Err(DbError::InUse {
            name: format!("the invalid index {index}"),
            sessions: vec![super::run::holders(client).await],
        }),
        ended => ended.doing(what),
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
        for (statement, name) in [
            ("drop index concurrently I cascade", Some("\"i\"")),
            ("DROP INDEX /* it */ CONCURRENTLY if exists S.\"I x\"", Some("\"s\".\"I x\"")),
            ("drop index i", None),
            ("create index concurrently i on t (a)", None),
        ] {
            assert_eq!(dropped(&split(statement).unwrap()[0]).as_deref(), name, "{statement}");
        }
    }
}
