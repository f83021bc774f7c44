//! Staging's data, masked on the way from production.

use std::path::{Path, PathBuf};

use piton_testkit::stage::Stage;

use crate::common::live_stage_in_turn;

const MASK: &str = "[columns.customers]\nemail = \"email\"\nname = \"name\"\nphone = \"digits\"\n\n[columns.items]\nnote = \"keep\"\n";

/// What stands for people's data.
const ORIGINALS: [&str; 3] = ["@mail.example", "Originaldottir", "555 0199"];

/// A production with customers, whose staging is made with a mask.
fn with_customers() -> Option<Stage> {
    let mut stage = live_stage_in_turn()?;
    let production = stage.database("production");
    stage.sql(
        &production,
        "create table customers (id serial primary key, email text unique, name text, phone text);
         create table outbox (id serial primary key, letter text);
         insert into customers (email, name, phone)
             select i || '@mail.example', 'Ada Originaldottir ' || i, '+354 555 0199' || i from generate_series(1, 300) i;
         insert into outbox (letter) select 'Dear Ada Originaldottir ' || i from generate_series(1, 20) i;
         update piton.migrations set error = 'Key (name)=(Ada Originaldottir) is duplicated.';
         alter table customers owner to \"OWNER\"; alter table outbox owner to \"OWNER\""
            .replace("OWNER", &stage.role("production"))
            .as_str(),
    );
    stage.configure(|settings| {
        settings.staging_mask = Some("mask.toml");
        settings.staging_empty = vec!["outbox"];
    });
    Some(stage)
}

/// Lists the originals that stand in the files of a database, or below a folder.
fn originals_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // The server comes and goes with files of its own.
            let Ok(mut bytes) = std::fs::read(&path) else { continue };
            if path.extension().is_some_and(|extension| extension == "gz") {
                bytes = std::process::Command::new("gzip").arg("-dc").arg(&path).output().unwrap().stdout;
            }
            let has = |text: &&&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            found.extend(ORIGINALS.iter().filter(has).map(|text| format!("{text} in {}", path.display())));
        }
    }
    found
}

fn files_of(stage: &Stage, database: &str) -> PathBuf {
    stage.sql("postgres", "checkpoint");
    let oid = stage.sql("postgres", &format!("select oid from pg_database where datname = '{database}'"));
    stage.cluster().data_dir().join("base").join(&oid[0])
}

#[test]
fn staging_is_made_without_anybodys_data() {
    let Some(mut stage) = with_customers() else { return };
    let (production, staging) = (stage.database("production"), stage.database("staging"));
    assert!(!originals_in(&files_of(&stage, &production)).is_empty(), "the search finds what is there");

    stage.write("mask.toml", "[columns.customers]\nemail = \"email\"\n");
    let refused = stage.piton(&["deploy", "staging"]).expect(2);
    let refused = refused.says("mask.toml does not say what becomes of all people's data");
    let refused = refused.says("below [columns.customers]: phone = \"digits\"");
    refused.says("public.items.note");
    stage.write("mask.toml", "[columns.customers]\nemail = \"mail\"\n");
    stage.piton(&["plan", "staging"]).expect(2).says("mask.toml").says("line 2");

    stage.write("mask.toml", MASK);
    stage.configure(|settings| settings.staging_empty = vec!["outbox", "outbx"]);
    let refused = stage.piton(&["deploy", "staging"]).expect(2).says("there is no table outbx");
    refused.says("change or remove in piton.toml what does not fit");
    stage.configure(|settings| settings.staging_empty = vec!["outbox"]);
    let plan = stage.piton(&["plan", "staging"]).expect(0).stdout;
    assert!(plan.contains("masked as mask.toml says"), "{plan}");
    stage.deploy("staging");
    assert_eq!(originals_in(&files_of(&stage, &staging)), Vec::<String>::new());
    assert_eq!(
        originals_in(&stage.root().join("backups").join(stage.name()).join("staging")),
        Vec::<String>::new()
    );
    let rows = "select (select count(*) from customers), (select count(distinct email) from customers), (select count(*) from outbox)";
    assert_eq!(stage.sql(&staging, rows), ["300|300|0"]);

    // The same stand-ins at the next refresh, and none by chance in production.
    let emails = "select string_agg(email, ',' order by id) from customers";
    let before = stage.sql(&staging, emails);
    stage.piton(&["clone", "staging"]).expect(0);
    assert_eq!(stage.sql(&staging, emails), before);
    assert!(stage.sql(&production, emails)[0].contains("@mail.example"));
}

#[test]
fn a_masked_copy_that_is_cut_off_leaves_no_raw_rows() {
    let Some(stage) = with_customers() else { return };
    stage.write("mask.toml", MASK);
    let backups = stage.root().join("backups").join(stage.name()).join("staging");
    let before = stage.databases();
    // pg_dump is the first program that runs, and what it has written is raw.
    let dumped = "ran backup:after";
    for (at, is_raw) in [(dumped, true), ("done backup:before", false), ("started prove:after", false)] {
        stage.piton_with_env(&["deploy", "staging"], &[("PITON_CRASH_AT", at)]).expect(137);
        assert_eq!(!originals_in(&backups).is_empty(), is_raw, "right after a kill at {at}");
        stage.piton(&["abort", "staging", "--yes"]).expect(0);
        assert_eq!(originals_in(&backups), Vec::<String>::new(), "after a kill at {at}");
        assert_eq!(stage.databases(), before);
    }
    // An address turns up where nobody expects one.
    stage.sql(
        &stage.database("production"),
        "alter table items add status text; update items set status = 'write to ada@mail.example'",
    );
    stage
        .piton(&["deploy", "staging"])
        .expect(3)
        .says("public.items.status has no kind, and holds an e-mail address");
    assert_eq!(originals_in(&backups), Vec::<String>::new());
    assert_eq!(stage.databases(), before);

    stage.sql(&stage.database("production"), "update items set status = 'open'");
    stage.piton_with_env(&["deploy", "staging"], &[("PITON_CRASH_AT", dumped)]).expect(137);
    // Who has tightened the mask meanwhile means it.
    stage.write("mask.toml", &MASK.replace("note = \"keep\"", "note = \"text\""));
    let stands = stage.piton(&["resume", "staging"]).expect(4);
    stands
        .says("what is masked or left empty was changed since this began")
        .says("piton abort staging, then piton deploy staging");
    stage.write("mask.toml", MASK);
    stage.piton(&["resume", "staging"]).expect(0);
    assert_eq!(originals_in(&backups), Vec::<String>::new(), "carried on");
    assert_eq!(originals_in(&files_of(&stage, &stage.database("staging"))), Vec::<String>::new());
}

#[test]
fn a_mask_that_breaks_a_constraint_ends_the_release() {
    let Some(stage) = with_customers() else { return };
    stage.sql(
        &stage.database("production"),
        "alter table customers add pin text; update customers set pin = id; alter table customers add unique (pin)",
    );
    stage.write("mask.toml", &MASK.replace("phone =", "pin = \"digits\"\nphone ="));
    let before = stage.databases();
    let failed = stage.piton(&["deploy", "staging"]).expect(3);
    let failed = failed.says("the masked rows break a constraint").says("customers_pin_key");
    failed.says("in mask.toml").says("then piton deploy staging");
    assert_eq!(stage.databases(), before);

    stage.write("mask.toml", &MASK.replace("phone =", "pin = \"keep\"\nphone ="));
    stage.deploy("staging");
}
