//! What guides to releases tell people to type, tried as it stands, and what Piton does in its place.

use std::process::Command;

use piton_testkit::stage::{Change, Stage};

use crate::common::stage_in_turn;

const VISITS: Change<'static> = Change::Migration("002_visits.sql", "create table visits (page text)");

/// Divides by zero after it has made a table.
const FAILS: Change<'static> =
    Change::Migration("003_fails.sql", "create table half (n int);\nselect 1 / 0;\n");

const ITEMS: &str = "select count(*), md5(string_agg(t::text, ',' order by id)) from items t";
const VISITED: &str = "select count(*) from visits";

/// Runs a line of a guide, as a person's shell would, and returns its exit code.
fn guide(stage: &Stage, line: &str) -> i32 {
    let mut path = vec![stage.cluster().bin_dir().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(stage.folder())
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("PGHOST", stage.cluster().socket_dir())
        .env("PGPORT", stage.cluster().port().to_string())
        .env("PGUSER", "postgres")
        .output()
        .unwrap();
    output.status.code().unwrap()
}

#[test]
fn what_guides_restore_stays_as_it_was_and_what_piton_restores_is_what_was_backed_up() {
    let Some(stage) = stage_in_turn() else { return };
    stage.commit("v1 that counts", &[VISITS]);
    stage.deploy("production");
    let production = stage.database("production");
    stage.sql(&production, "insert into items (id, note, created) values ('a', 'as it was', now())");
    stage.sql(&production, "insert into visits values ('/'), ('/'), ('/items')");
    let was = stage.sql(&production, ITEMS);

    // The guides' backups, and a database that a migration has gone over since: a new table refers to an old one.
    assert_eq!(guide(&stage, &format!("pg_dump -Fc {production} > backup.dump")), 0);
    assert_eq!(guide(&stage, &format!("pg_dump {production} > dump.sql")), 0);
    let by_guide = format!("{production}_by_guide");
    assert_eq!(guide(&stage, &format!("createdb {by_guide} && pg_restore -d {by_guide} backup.dump")), 0);
    assert_eq!(stage.sql(&by_guide, ITEMS), was);
    stage.sql(&by_guide, "create table receipts (item text not null references items (id))");
    stage.sql(&by_guide, "insert into receipts values ('a')");
    stage.sql(&by_guide, "update items set note = 'as the bad release made it'");
    let spoilt = stage.sql(&by_guide, ITEMS);

    let over = format!("pg_restore -d {by_guide} --clean --if-exists backup.dump");
    assert_eq!(guide(&stage, &over), 1);
    assert_eq!(stage.sql(&by_guide, ITEMS), spoilt, "nothing is restored");
    assert_eq!(stage.sql(&by_guide, "select item from receipts"), ["a"]);
    assert_eq!(guide(&stage, &format!("psql {by_guide} < dump.sql")), 0, "a success, it says");
    assert_eq!(stage.sql(&by_guide, ITEMS), spoilt, "nothing is restored");
    assert_eq!(stage.sql(&by_guide, VISITED), ["6"], "three visits, twice");
    let heredoc =
        format!("psql {by_guide} <<'EOF'\nBEGIN;\ncreate table half (n int);\nselect 1 / 0;\nCOMMIT;\nEOF");
    assert_eq!(guide(&stage, &heredoc), 0, "a success, it says");
    assert_eq!(stage.sql(&by_guide, "select to_regclass('half') is null"), ["t"], "nothing is migrated");
    assert_eq!(
        guide(&stage, &format!("pg_dump {production}_misspelt | tee tee.sql")),
        0,
        "a success, it says"
    );
    assert_eq!(std::fs::metadata(stage.folder().join("tee.sql")).unwrap().len(), 0, "nothing is backed up");

    // Beside the live database and never over one, whole or not at all, however often it is tried.
    stage.piton(&["backup", "production"]).expect(0).says("is proved");
    let restored = format!("{production}_restored");
    let restore = ["restore", "production", "latest", "--into", &restored];
    let half_way = [("PITON_CRASH_AT", "done prove:before")];
    stage.piton_with_env(&restore, &half_way).expect(137);
    stage.piton(&["resume", "production"]).expect(0);
    assert_eq!(stage.sql(&restored, ITEMS), was);
    assert_eq!(stage.sql(&restored, VISITED), ["3"]);
    let over = ["restore", "production", "latest", "--into", &by_guide];
    stage.piton(&over).expect(2).says("never over it");
    assert_eq!(stage.sql(&by_guide, ITEMS), spoilt, "and is not touched");

    // A failure is one, and leaves nothing.
    stage.commit("v2", &[FAILS]);
    stage.piton(&["deploy", "production"]).expect(3).says("003_fails.sql").says("division by zero");
    assert_eq!(stage.sql(&production, "select to_regclass('half') is null"), ["t"]);
    assert_eq!(stage.sql(&production, ITEMS), was);
    [by_guide, restored]
        .iter()
        .for_each(|name| drop(stage.sql("postgres", &format!("drop database {name}"))));
}
