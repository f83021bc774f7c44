//! pg_cron, which of all databases of a server one alone can have: the one that `cron.database_name` names.

use tokio_postgres::Client;

use crate::DbError;
use crate::error::Doing;
use crate::fingerprint::Structure;

const EXTENSION: &str = "extension pg_cron";
/// Where it has its tables; it cannot be moved.
const SCHEMA: &str = "cron";

/// Tells whether the session's database has it.
///
/// # Errors
/// When the database cannot be asked.
pub async fn is_there(client: &Client) -> Result<bool, DbError> {
    let there = "select exists (select from pg_catalog.pg_extension where extname = 'pg_cron')";
    Ok(client.query_one(there, &[]).await.doing(|| "look for pg_cron".into())?.get(0))
}

/// Returns the schema of pg_cron, where the session's database has it.
pub(crate) async fn schema(client: &Client) -> Result<Option<&'static str>, DbError> {
    Ok(is_there(client).await?.then_some(SCHEMA))
}

/// Tells whether a database has it.
pub(crate) fn is_in(structure: &Structure) -> bool {
    structure.0.contains_key(EXTENSION)
}

/// Tells of a line of the dump's table of contents whether it is of pg_cron, or of what lies in its schema.
pub(crate) fn is_entry(line: &str) -> bool {
    // `3409; 0 0 ACL cron TABLE job postgres`: what it is, in capitals, the schema, and the name.
    let Some((_, entry)) = line.split_once("; ") else { return false };
    let what = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase());
    let mut words = entry.split(' ').skip(2).skip_while(what);
    match words.next() {
        Some("-") => matches!(
            (words.next(), words.next(), words.next()),
            (Some("pg_cron"), ..)
                | (Some("EXTENSION"), Some("pg_cron"), _)
                | (Some("SCHEMA"), Some(SCHEMA), _)
        ),
        schema => schema == Some(SCHEMA),
    }
}

/// Tells whether an object of the listing is of pg_cron, or of what lies in its schema.
pub(crate) fn is_its(object: &str) -> bool {
    let words: Vec<&str> = object.split(' ').collect();
    words.iter().any(|word| *word == "pg_cron" || word.starts_with("cron."))
        || words.windows(2).any(|pair| pair == ["schema", SCHEMA])
}

/// Tells whether a table, by its quoted name, lies in its schema.
pub(crate) fn is_its_table(quoted: &str) -> bool {
    quoted.starts_with("\"cron\".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_pg_cron_is_known_by_its_line() {
        for (line, yes) in [
            ("2; 3079 16386 EXTENSION - pg_cron ", true),
            ("3402; 0 0 COMMENT - EXTENSION pg_cron ", true),
            ("3403; 0 0 ACL - SCHEMA cron postgres", true),
            ("3406; 0 0 ACL cron FUNCTION alter_job(job_id bigint, schedule text) postgres", true),
            ("3232; 0 16389 TABLE DATA cron job postgres", true),
            ("3411; 0 0 SEQUENCE SET cron jobid_seq postgres", true),
            ("2069; 826 16447 DEFAULT ACL cron DEFAULT PRIVILEGES FOR TABLES postgres", true),
            ("4; 3079 16431 EXTENSION - file_fdw ", false),
            ("223; 1259 16441 TABLE public cron postgres", false),
            ("3405; 0 0 COMMENT - EXTENSION postgres_fdw ", false),
            ("; Selected TOC Entries:", false),
        ] {
            assert_eq!(is_entry(line), yes, "{line}");
        }
    }
}
