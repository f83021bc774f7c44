//! Prisma: a folder for each migration, and a table with every attempt at one.

use std::path::Path;

use piton_exec::Command;
use ring::digest;

use super::adapter::{
    Adapter, Known, Row, hides, is_newer, is_one_transaction, is_structure_alone, program, statements,
    waits_harmlessly,
};
use super::tool::Files;
use super::{Migration, MigrationError, State};
use crate::hex::hex;
use crate::quote;

const TABLE: &str = "_prisma_migrations";
const FILE: &str = "/migration.sql";

pub(super) struct Prisma;

impl Adapter for Prisma {
    fn record(&self) -> (Option<&'static str>, Option<&'static str>) {
        (None, Some(TABLE))
    }

    fn rows(&self, _files: &Files) -> Option<(&'static str, String)> {
        let query = "select migration_name::text, finished_at is not null, checksum::text, logs
                     from _prisma_migrations where rolled_back_at is null order by started_at";
        Some((TABLE, query.into()))
    }

    fn reads(&self, path: &str) -> bool {
        path.strip_suffix(FILE).is_some_and(|name| !name.contains('/'))
    }

    fn known(&self, files: &Files) -> Result<Vec<Known>, MigrationError> {
        let one = |(path, text): (&String, &String)| Known {
            name: path.trim_end_matches(FILE).to_owned(),
            // A checkout on another system may have other line ends, and Prisma takes either.
            checksums: vec![sha256(text), sha256(&text.replace("\r\n", "\n")), sha256(&with_returns(text))],
            // Its engines differ in whether they send a file as a whole.
            atomic: is_structure_alone(text),
            shows: is_structure_alone(text) && !hides(text),
            whole: statements(text) == Some(1) && is_one_transaction(text),
            waits_harmlessly: waits_harmlessly(text),
            ..Known::default()
        };
        Ok(files.iter().map(one).collect())
    }

    fn minds(&self, one: &Migration, known: &[Known], rows: &[Row]) -> bool {
        match one.state {
            State::Applied | State::Pending => false,
            State::Missing => is_newer(&one.name, known, rows.iter()),
            _ => true,
        }
    }

    fn apply(&self, app: &Path, _folder: &Path, _name: &str) -> Command {
        program(app, "prisma").args(["migrate", "deploy"])
    }

    fn look(&self, app: &Path, _folder: &Path) -> Command {
        program(app, "prisma").args(["migrate", "status"])
    }

    fn mend(&self) -> &'static str {
        "write url = env(\"DATABASE_URL\") into the datasource of schema.prisma, and no other directUrl or adapter URL"
    }

    fn by_hand(&self) -> &'static str {
        "prisma migrate resolve"
    }

    fn applies_all(&self) -> bool {
        true
    }

    fn reads_url_alone(&self) -> bool {
        true
    }

    /// As `prisma migrate resolve` does it, which refuses one that ended well and whose file is gone.
    fn mark(&self, _: &Files, known: &[Known], _rows: &[Row], name: &str, applied: bool) -> Vec<String> {
        let quoted = quote::literal(name);
        let open = if applied { "and finished_at is null " } else { "" };
        let mut statements = vec![format!(
            "update _prisma_migrations set rolled_back_at = now()
             where migration_name = {quoted} {open}and rolled_back_at is null"
        )];
        let checksum =
            known.iter().find(|known| known.name == name).and_then(|known| known.checksums.first());
        match checksum {
            Some(checksum) if applied => statements.push(format!(
                "insert into _prisma_migrations (id, checksum, migration_name, started_at, finished_at, applied_steps_count)
                 values (gen_random_uuid()::text, {}, {quoted}, now(), now(), 0)",
                quote::literal(checksum)
            )),
            None if applied => return Vec::new(),
            _ => {}
        }
        statements
    }
}

fn with_returns(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

fn sha256(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}
