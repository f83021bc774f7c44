use std::path::{Path, PathBuf};

use fs_err as fs;
use piton_db::backup::{DumpOptions, dump};
use piton_db::identity::Purpose;
use piton_db::manifest::{MadeFor, Manifest};
use piton_db::mask::{Kind, LargeObjects, Mask, MaskKey, Problem};
use piton_db::neutral::{self, Neutralised};
use piton_db::prove::{Owners, compare, restore};
use piton_db::{Database, DbError, facts, made};
use piton_testkit::postgres::{Cluster, Options, skip};

use crate::backup::shop;
use crate::{fresh, label, number, quiet, run};

/// What stands for people's data: none of it may be found in a masked copy.
const ORIGINALS: [&str; 8] = [
    "@mail.example",
    "Originaldottir",
    "555 0199",
    "secret diary",
    "Original Street",
    "4242424242424242",
    "hunter2-hash",
    "Originalia",
];

const PEOPLE: &str = r#"
    create domain short_mail as varchar(30) check (value like '%@%');
    create table people (
        id serial primary key,
        email text not null unique,
        "fullName" text not null,
        phone varchar(20),
        card char(20),
        backup_mail short_mail,
        nick NICK unique,
        notes text,
        born date,
        seen timestamptz,
        settings jsonb not null,
        status text not null default 'active'
    );
    create index on people (lower("fullName"));
    create table orders (id serial primary key, buyer text not null references people (email), total numeric not null);
    create table sessions (token text primary key, email text not null);
    create materialized view buyers as select buyer, sum(total) as total from orders group by buyer;
    insert into people (email, "fullName", phone, card, backup_mail, nick, notes, born, seen, settings)
    select 'u' || i || '@mail.example', 'Ada' || i || ' Originaldottir', '+354 555 0199' || i, '4242424242424242', 'b' || i || '@mail.example',
           'Originalia' || i, E'secret diary\tof ' || i || E'\nwith \\ lines', date '1980-05-17' + i, now(),
           jsonb_build_object('street', 'Original Street ' || i, 'age', 20 + i, 'tags', jsonb_build_array('u' || i || '@mail.example', true, null))
    from generate_series(1, 500) i;
    insert into orders (buyer, total) select 'u' || (1 + i % 500) || '@mail.example', i from generate_series(1, 2000) i;
    insert into sessions select 'hunter2-hash' || i, 'u' || i || '@mail.example' from generate_series(1, 50) i;
    refresh materialized view buyers;
"#;

fn mask() -> Mask {
    toml_of(&[
        ("people", "email", Kind::Email),
        ("people", "fullName", Kind::Name),
        ("people", "phone", Kind::Digits),
        ("people", "card", Kind::Digits),
        ("people", "backup_mail", Kind::Email),
        ("people", "nick", Kind::Name),
        ("people", "notes", Kind::Text),
        ("people", "born", Kind::Year),
        ("people", "settings", Kind::Json),
        ("orders", "buyer", Kind::Email),
    ])
}

fn toml_of(columns: &[(&str, &str, Kind)]) -> Mask {
    let mut mask = Mask::default();
    for (table, column, kind) in columns {
        mask.columns.entry((*table).to_owned()).or_default().insert((*column).to_owned(), *kind);
    }
    mask
}

/// Makes the people; their nicks are `citext` where the server has that.
async fn make_people(source: &Database) {
    let client = source.connect().await.unwrap();
    let there = "select count(*) from pg_available_extensions where name = 'citext'";
    let nick = if number(&client, there).await == 1 {
        run(source, "create extension citext").await;
        "citext"
    } else {
        "text"
    };
    run(source, &PEOPLE.replace("NICK", nick)).await;
}

fn key() -> MaskKey {
    MaskKey::new([42; 32])
}

async fn masked(source: &Database, dir: &Path, empty: &[&str], mask: Mask) -> Result<Manifest, DbError> {
    let empty = empty.iter().map(|table| (*table).to_owned()).collect();
    let options = DumpOptions { empty, mask: Some((mask, key())), ..DumpOptions::default() };
    dump(source, dir, &for_staging(), options, &mut quiet).await
}

/// Lists which originals stand in the files of a database, as the server has written them.
async fn originals_in(cluster: &Cluster, database: &str) -> Vec<String> {
    let client = cluster.connect("postgres").await;
    client.batch_execute("checkpoint").await.unwrap();
    let row = client.query_one("select oid from pg_database where datname = $1", &[&database]).await.unwrap();
    let folder = cluster.data_dir().join("base").join(row.get::<_, u32>(0).to_string());
    found_in(files(&folder))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn found_in(files: Vec<PathBuf>) -> Vec<String> {
    let mut found = Vec::new();
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let has = |text: &&&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        found.extend(ORIGINALS.iter().filter(has).map(|text| format!("{text} in {}", path.display())));
    }
    found
}

#[tokio::test]
async fn a_masked_copy_holds_no_original_in_its_files() {
    let Some((cluster, source)) = fresh("people").await else { return };
    make_people(&source).await;
    assert_eq!(originals_in(cluster, "people").await.len().min(8), 8, "the search finds what is there");
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = masked(&source, &dir, &["sessions"], mask()).await.unwrap();
    assert!(manifest.mask.is_some());
    assert_eq!(manifest.rows["\"public\".\"sessions\""].rows, 0);

    let golden = source.with_name("people_golden");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    let proof = compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap();
    assert_eq!(proof.differences, []);
    assert_eq!(originals_in(cluster, "people_golden").await, Vec::<String>::new());
    let dumped: Vec<PathBuf> = files(&dir.join("dump"));
    for path in dumped.iter().filter(|path| path.to_string_lossy().ends_with(".gz")) {
        let output = std::process::Command::new("gzip").arg("-dc").arg(path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(ORIGINALS.iter().all(|original| !text.contains(original)), "{}", path.display());
    }

    let client = golden.connect().await.unwrap();
    let count = async |sql: &str| number(&client, sql).await;
    let joined = "select count(*) from orders join people on buyer = email";
    assert_eq!(count(joined).await, 2000, "joins hold");
    assert_eq!(
        count("select count(distinct email) from people where email like 'u%@example.invalid'").await,
        500
    );
    assert_eq!(
        count("select count(*) from people where length(notes) > 20 and status = 'active'").await,
        500
    );
    assert_eq!(count("select count(distinct extract(doy from born)) from people").await, 1);
    assert_eq!(
        count("select count(*) from people where phone like '+___ ___ ____%' and octet_length(card) = 20")
            .await,
        500
    );
    assert_eq!(
        count("select count(*) from people where settings ? 'street' and (settings->>'age')::int > 0").await,
        500
    );
    assert_eq!(count("select count(*) from buyers b join people p on p.email = b.buyer").await, 500);

    // The same key: the same stand-ins at the next refresh.
    let again = folder.path().join("again");
    assert_eq!(masked(&source, &again, &["sessions"], mask()).await.unwrap().rows, manifest.rows);
}

/// Wants a mask to be refused with these words, and nothing of the dump to be left.
async fn refused(source: &Database, empty: &[&str], mask: Mask) -> Vec<Problem> {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let error = masked(source, &dir, empty, mask).await.unwrap_err();
    assert!(!dir.exists(), "nothing is left");
    match error {
        DbError::Mask { problems } => problems,
        other => panic!("{other:?}"),
    }
}

fn words(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_nobody_has_classified_is_not_copied() {
    let Some((_, source)) = fresh("unclassified").await else { return };
    make_people(&source).await;
    let mut bare = Mask::default();
    let unclassified = refused(&source, &[], bare.clone()).await;
    let said = words(&unclassified);
    for column in [
        "people.email",
        "people.fullName",
        "people.phone",
        "people.card",
        "people.born",
        "people.backup_mail",
        "sessions.token",
    ] {
        let problem = format!("public.{column} ");
        assert!(
            said.iter().any(|said| said.starts_with(&problem) && said.ends_with("has no kind")),
            "{column}: {said:?}"
        );
    }
    let line = |mask: &Mask| {
        let lines = unclassified.iter().filter_map(|problem| problem.line(mask));
        lines.into_iter().find(|line| line.contains("fullName")).unwrap()
    };
    assert_eq!(line(&bare), "below [columns.\"public.people\"]: fullName = \"name\"");
    assert_eq!(line(&mask()), "below [columns.people]: fullName = \"name\"", "as the mask spells it");

    bare.columns.insert("people".into(), [("emial".to_owned(), Kind::Email)].into());
    let said = words(&refused(&source, &["sessions", "outbox"], bare).await);
    assert!(said.contains(&"there is no table outbox, which `data.empty` names".to_owned()), "{said:?}");
    assert!(said.contains(&"there is no column public.people.emial".to_owned()), "{said:?}");

    let mut unfit = mask();
    let people = unfit.columns.get_mut("people").unwrap();
    people.insert("settings".into(), Kind::Text);
    people.insert("id".into(), Kind::Year);
    people.insert("email".into(), Kind::Null);
    let said = words(&refused(&source, &["sessions"], unfit).await);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said.iter().any(|said| said.contains("it may not be null")), "{said:?}");
}

#[tokio::test]
async fn an_address_in_a_column_of_an_innocent_name_stops_the_copy() {
    let Some((_, source)) = fresh("innocent").await else { return };
    run(
        &source,
        "create table tickets (id int, sku text); insert into tickets select i, 'no mail here' from generate_series(1, 5000) i;
         insert into tickets values (0, 'from ada@mail.example'), (1, null)",
    )
    .await;
    let said = words(&refused(&source, &[], Mask::default()).await);
    assert_eq!(said, ["public.tickets.sku has no kind, and holds an e-mail address"]);
    let folder = tempfile::tempdir().unwrap();
    let kept = toml_of(&[("tickets", "sku", Kind::Keep)]);
    let manifest = masked(&source, &folder.path().join("backup"), &[], kept).await.unwrap();
    assert_eq!(manifest.total_rows(), 5002);
}

#[tokio::test]
async fn an_address_as_a_key_of_json_stops_the_copy() {
    let Some((_, source)) = fresh("keyed").await else { return };
    run(
        &source,
        r#"create table tickets (id int, by_mail json);
           insert into tickets values (1, '{"a": "ada@mail.example"}'), (2, '{"ada\u0040mail.example": 1}')"#,
    )
    .await;
    let mask = toml_of(&[("tickets", "by_mail", Kind::Json)]);
    let problems = refused(&source, &[], mask.clone()).await;
    let said = "public.tickets.by_mail holds an e-mail address as a key of its JSON, and `json` keeps keys";
    assert_eq!(words(&problems), [said]);
    assert_eq!(problems[0].line(&mask).unwrap(), "below [columns.tickets]: by_mail = \"null\"");
}

#[tokio::test]
async fn a_tables_lines_are_its_partitions_too() {
    let Some((_, source)) = fresh("partitioned").await else { return };
    run(
        &source,
        "create table visits (id int, at date, visitor text) partition by range (at);
         create table visits_2026_01 partition of visits for values from ('2026-01-01') to ('2026-02-01');
         create table visits_2026_02 partition of visits for values from ('2026-02-01') to ('2026-03-01')
             partition by list (id);
         create table visits_2026_02_rest partition of visits_2026_02 default;
         create table people (id int, visitor text);
         create table staff (badge int) inherits (people);
         create table queue (id int, letter text) partition by list (id);
         create table queue_rest partition of queue default;
         insert into visits select i, date '2026-01-01' + i, 'Originaldottir ' || i from generate_series(1, 50) i;
         insert into staff select i, 'Originaldottir ' || i, i from generate_series(1, 50) i;
         insert into queue select i, 'Dear Originaldottir' from generate_series(1, 50) i",
    )
    .await;
    let said = words(&refused(&source, &["queue"], Mask::default()).await);
    assert_eq!(
        said,
        ["public.people.visitor (text) has no kind", "public.visits.visitor (text) has no kind"],
        "one line for all partitions, present and to come"
    );
    let wrong = toml_of(&[("visits", "visiter", Kind::Name)]);
    let said = words(&refused(&source, &[], wrong).await);
    assert!(said.contains(&"there is no column public.visits.visiter".to_owned()), "{said:?}");

    let mask = toml_of(&[
        ("visits", "visitor", Kind::Name),
        ("visits_2026_01", "visitor", Kind::Blank),
        ("people", "visitor", Kind::Text),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = masked(&source, &dir, &["queue"], mask).await.unwrap();
    let golden = source.with_name("partitioned_golden");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    assert_eq!(compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap().differences, []);
    let client = golden.connect().await.unwrap();
    let count = async |sql: &str| number(&client, sql).await;
    let raw = "select count(*) from (select visitor from visits union all select visitor from people) v
               where visitor like '%Originaldottir%'";
    assert_eq!(count(raw).await, 0);
    assert_eq!(count("select count(*) from visits_2026_01 where visitor = ''").await, 30);
    assert_eq!(count("select count(*) from visits_2026_02 where visitor <> ''").await, 20);
    assert_eq!(count("select count(*) from staff where visitor <> ''").await, 50);
    assert_eq!(count("select count(*) from queue").await, 0);
}

/// A column of every type that hides people's data, and what is proposed for it.
const TYPES: [(&str, &str, &str); 24] = [
    ("phone", "bigint not null", "digits"),
    ("ssn", "int", "digits"),
    ("zip", "smallint", "digits"),
    ("account", "numeric not null", "digits"),
    ("salary", "numeric(10, 2)", "digits"),
    ("income", "money", "digits"),
    ("names", "text[]", "null"),
    ("phones", "varchar(20)[] not null", "blank"),
    ("pins", "int[] not null", "blank"),
    ("search", "tsvector not null", "blank"),
    ("ip", "inet not null", "blank"),
    ("network", "cidr not null", "blank"),
    ("device", "macaddr not null", "blank"),
    ("photo", "bytea not null", "blank"),
    ("letter", "xml not null", "blank"),
    ("place", "point not null", "blank"),
    ("latitude", "float8 not null", "blank"),
    ("token", "uuid not null", "blank"),
    ("gender", "sex", "null"),
    ("sexes", "sex not null", "keep"),
    ("nicks", "nicks not null", "blank"),
    ("nick", "nick not null", "name"),
    ("address1", "json not null", "json"),
    ("dateofbirth", "date", "year"),
];

#[tokio::test]
async fn every_type_has_a_kind_that_hides_what_is_in_it() {
    let Some((_, source)) = fresh("types").await else { return };
    // Not every server is built with libxml.
    let has_xml = source.connect().await.unwrap().batch_execute("select '<a/>'::xml").await.is_ok();
    let types: Vec<_> = TYPES.iter().filter(|(_, of, _)| has_xml || !of.starts_with("xml")).collect();
    let columns: Vec<String> = types.iter().map(|(name, of, _)| format!("{name} {of}")).collect();
    let letter = if has_xml { "'<a/>', " } else { "" };
    run(
        &source,
        &format!(
            "create type sex as enum ('f', 'm'); create domain nick as varchar(20); create domain nicks as nick[];
             create table t (id bigint, order_id int, status text, amount numeric, at timestamptz, verified_phone bool, {});
             insert into t select i, i, 'paid', i, now(), true,
                 3545550199000 + i, 2147480000 + i, 30000 + i, 10000000 + i + 0.25, 123456.07 + i, (1234.5 + i)::money,
                 array['Ada'], array['555'], array[i], 'ada lovelace', '10.0.0.7', '10.0.0.0/8', '08:00:2b:01:02:03',
                 'png', {letter}'(1,2)', 64.1, md5(i::text)::uuid, 'f', 'm', array['ada'], 'ada', '{{}}', '1815-12-10'
             from generate_series(1, 1000) i",
            columns.join(", ")
        ),
    )
    .await;
    let problems = refused(&source, &[], Mask::default()).await;
    let proposed: Vec<(&str, &str)> = problems
        .iter()
        .map(|problem| match problem {
            Problem::Unclassified { column, likely, .. } => (column.as_str(), likely.word()),
            other => panic!("{other:?}"),
        })
        .collect();
    let mut wanted: Vec<(&str, &str)> = types.iter().map(|(name, _, kind)| (*name, *kind)).collect();
    wanted.sort_by_key(|(name, _)| proposed.iter().position(|(found, _)| found == name));
    assert_eq!(proposed, wanted);

    // What is proposed is taken, and proves itself.
    let mut mask = Mask::default();
    for problem in &problems {
        let Problem::Unclassified { table, column, likely, .. } = problem else { continue };
        mask.columns.entry(table.clone()).or_default().insert(column.clone(), *likely);
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = masked(&source, &dir, &[], mask.clone()).await.unwrap();
    let golden = source.with_name("types_golden");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    assert_eq!(compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap().differences, []);
    let client = golden.connect().await.unwrap();
    let count = async |sql: &str| number(&client, sql).await;
    let distinct = "select count(distinct phone) + count(distinct ssn) + count(distinct account) from t";
    assert_eq!(count(distinct).await, 3000, "no two numbers become one");
    let form = "select count(*) from t where length(phone::text) = 13 and length(ssn::text) = 10
                and account::text like '________.__' and zip between 10000 and 32767";
    assert_eq!(count(form).await, 1000);
    let raw =
        "select count(*) from t where phone = 3545550199000 + id or ssn = 2147480000 + id or ip <> '0.0.0.0'
               or photo <> '' or search <> '' or phones <> '{}' or latitude <> 0";
    assert_eq!(count(raw).await, 0);
    drop(client);

    // A blank number has as many digits behind the point.
    for column in ["salary", "account", "ssn", "nick", "address1"] {
        mask.columns.get_mut("public.t").unwrap().insert(column.into(), Kind::Blank);
    }
    let dir = folder.path().join("blank");
    let manifest = masked(&source, &dir, &[], mask).await.unwrap();
    let golden = source.with_name("types_blank");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    assert_eq!(compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap().differences, []);
}

#[tokio::test]
async fn large_objects_are_copied_only_when_somebody_says_so() {
    let Some((_, source)) = fresh("large_masked").await else { return };
    run(&source, "select lo_from_bytea(0, 'a scan of a passport')").await;
    assert_eq!(words(&refused(&source, &[], Mask::default()).await), ["the database has 1 large objects"]);
    let folder = tempfile::tempdir().unwrap();
    for (name, what, count) in [("keep", LargeObjects::Keep, 1), ("drop", LargeObjects::Drop, 0)] {
        let mask = Mask { large_objects: Some(what), ..Mask::default() };
        let dir = folder.path().join(name);
        let manifest = masked(&source, &dir, &[], mask).await.unwrap();
        assert_eq!(manifest.large_objects.len(), count);
        let golden = source.with_name(&format!("large_masked_{name}"));
        restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
        assert!(compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap().is_equal());
        assert!(facts::exists(&golden).await.unwrap());
    }
}

#[tokio::test]
async fn a_copy_reaches_out_no_more() {
    let Some((_, source)) = fresh("reaching").await else { return };
    run(
        &source,
        "create foreign data wrapper elsewhere;
         create server far foreign data wrapper elsewhere options (host 'far.example', dbname 'billing');
         create user mapping for postgres server far options (user 'app', password 'secret');
         create user mapping for public server far;
         create table t (a int); create publication p for table t;
         create subscription reaching_sub connection 'host=far.example dbname=billing password=secret' publication p
             with (connect = false, slot_name = 'original_slot');
         create server files foreign data wrapper elsewhere;
         alter database reaching set app.jwt_secret = 'hunter2'; alter database reaching set work_mem = '5MB'",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = dump(&source, &dir, &for_staging(), DumpOptions::default(), &mut quiet).await.unwrap();
    let golden = source.with_name("reaching_golden");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    let proof = compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap();
    assert_eq!(proof.differences, [], "without what it does not take along");
    let client = golden.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from pg_user_mappings").await, 0, "before anything is done");
    let set = "select count(*) from pg_settings where name = 'work_mem' and setting = '5120'
               and current_setting('app.jwt_secret', true) is null";
    assert_eq!(number(&client, set).await, 1, "what is not the server's own is not carried over");
    drop(client);
    let taken = Neutralised::of(&manifest);
    assert_eq!(taken.subscriptions, ["reaching_sub"]);
    assert_eq!(taken.user_mappings, ["postgres at far", "public at far"]);
    assert_eq!(taken.open_servers, ["files"]);
    // What is called masked has no password in it, nor a hash of one that a list of words would find.
    let hash = client_hash(&source, "password=secret").await;
    for file in ["dump/toc.dat", "manifest.json"] {
        let bytes = fs::read(dir.join(file)).unwrap();
        for secret in ["secret'", "password=secret", "hunter2", hash.as_str()] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {file}");
        }
    }

    // A copy that takes the original's place has the subscription, and can be dropped all the same.
    let kept = source.with_name("reaching_kept");
    let dir = folder.path().join("own");
    dump(&source, &dir, &shop(), DumpOptions::default(), &mut quiet).await.unwrap();
    restore(&dir, &kept, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    let client = kept.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from pg_subscription where subdbid = (select oid from pg_database where datname = current_database())").await, 1);
    assert_eq!(number(&client, "select length(current_setting('app.jwt_secret'))::int8").await, 7);
    drop(client);
    assert_eq!(neutral::drop_user_mappings(&kept).await.unwrap().len(), 2);
    // Whoever gets it may drop it without asking the publisher, who would lose the original's slot.
    let client = kept.connect().await.unwrap();
    assert_eq!(neutral::part_from_slots(&client).await.unwrap(), ["reaching_sub"]);
    client.batch_execute("drop subscription reaching_sub").await.unwrap();
    drop(client);
    restore(&dir, &kept, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    assert!(made::drop_made(&kept, &label(Purpose::Golden)).await.unwrap());
    run(&source, "alter subscription reaching_sub set (slot_name = none); drop subscription reaching_sub")
        .await;
}

/// Hashes a text as the listing does an option.
async fn client_hash(database: &Database, text: &str) -> String {
    let client = database.connect().await.unwrap();
    let hash = "select encode(sha256(convert_to($1::text, 'UTF8')), 'hex')";
    client.query_one(hash, &[&text]).await.unwrap().get(0)
}

/// Whom production's dump is made for when staging's database is made from it.
fn for_staging() -> MadeFor {
    MadeFor { environment: "staging".into(), from: Some("production".into()), ..shop() }
}

#[tokio::test]
async fn a_copy_reads_no_foreign_row_while_it_is_restored() {
    let Some((cluster, source)) = fresh("reading").await else { return };
    let client = source.connect().await.unwrap();
    let there = "select count(*) from pg_available_extensions where name in ('postgres_fdw', 'dblink')";
    if number(&client, there).await < 2 {
        return piton_testkit::postgres::skip("postgres_fdw and dblink");
    }
    cluster.create_database("billing").await;
    let billing = source.with_name("billing");
    run(
        &billing,
        "create table cards (id int, holder text, read_at timestamptz);
         insert into cards values (1, 'Ada Originaldottir')",
    )
    .await;
    // The path of a socket cannot stand in a server's options everywhere; the address can.
    let far = format!("host '{}', port '{}', dbname 'billing'", source.host, source.port);
    run(
        &source,
        &format!(
            "create extension postgres_fdw; create extension dblink;
             create server far foreign data wrapper postgres_fdw options ({far});
             create user mapping for public server far options (user 'postgres', password_required 'false');
             create table near (id int);
             create foreign table cards (id int, holder text) server far options (table_name 'cards');
             create table holders (id int, holder text) partition by list (id);
             create foreign table holders_far partition of holders default server far options (table_name 'cards');
             create view card_holders as select holder from cards;
             create materialized view copied as select * from card_holders;
             create materialized view copied_twice as select count(*) from copied;
             create materialized view copied_parts as select * from holders;
             create materialized view linked as select * from dblink('far', 'select holder from cards') as d(holder text);
             create function asks() returns setof text language plpgsql as $$ begin
                 return query select * from public.dblink('host={} port={} dbname=billing user=postgres', 'select holder from cards')
                     as d(holder text); end $$;
             create materialized view asked as select * from asks() as a(holder);
             create function asks_twice() returns setof text begin atomic select asks(); end;
             create materialized view asked_twice as select * from asks_twice() as a(holder);
             create function asked(text, text) returns bool language sql as $$ select $1 in (select public.asks()) $$;
             create operator === (leftarg = text, rightarg = text, function = asked);
             create materialized view compared as select 'Ada Original' || 'dottir' as holder where 'a' === 'b' is not null;
             create domain known as text check (public.asked(value, value) or true);
             create materialized view checked as select ('Ada Original' || 'dottir')::known as holder;
             create function counts() returns bigint begin atomic select count(*) from near; end;
             create materialized view own_too as select counts();
             create unique index on copied (holder);
             create materialized view own as select count(*) from near",
            source.host, source.port
        ),
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = dump(&source, &dir, &for_staging(), DumpOptions::default(), &mut quiet).await.unwrap();
    let golden = source.with_name("reading_golden");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    let proof = compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap();
    assert_eq!(proof.differences, []);
    assert_eq!(originals_in(cluster, "reading_golden").await, Vec::<String>::new());
    let mut views = Neutralised::of(&manifest).foreign_views;
    views.sort();
    assert_eq!(
        views.iter().map(|view| view.trim_start_matches("public.")).collect::<Vec<_>>(),
        ["asked", "asked_twice", "checked", "compared", "copied", "copied_parts", "copied_twice", "linked"]
    );
    let client = golden.connect().await.unwrap();
    let filled = "select count(*) from pg_matviews where ispopulated and matviewname in ('own', 'own_too')";
    assert_eq!(number(&client, filled).await, 2, "what reads its own rows is filled");
    assert!(client.batch_execute("refresh materialized view copied").await.is_err(), "nor can it be later");

    // What may take the original's place is whole.
    let kept = source.with_name("reading_kept");
    let dir = folder.path().join("own");
    let manifest = dump(&source, &dir, &shop(), DumpOptions::default(), &mut quiet).await.unwrap();
    restore(&dir, &kept, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    assert!(compare(&manifest, &kept, Owners::Kept, &mut quiet).await.unwrap().is_equal());
    neutral::drop_user_mappings(&kept).await.unwrap();
    let client = kept.connect().await.unwrap();
    let written = client.batch_execute("update cards set holder = 'x'").await;
    assert!(written.is_err(), "a rehearsal's copy cannot write to what is real");
}

#[tokio::test]
async fn a_view_that_calls_a_function_is_filled_where_nothing_leads_elsewhere() {
    let Some((_, source)) = fresh("inward").await else { return };
    run(
        &source,
        "create function counts() returns int language plpgsql as 'begin return 1; end';
         create materialized view counted as select counts()",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    for (name, more, filled) in [
        ("without", "select", 1),
        (
            "written in what may do anything",
            "create function handler() returns language_handler language c as '$libdir/plpgsql', 'plpgsql_call_handler';
             create language speech handler handler;
             create function says() returns int language speech as 'begin return 1; end'",
            0,
        ),
        ("a language alone", "drop function says()", 1),
        ("a server", "create foreign data wrapper w; create server s foreign data wrapper w", 0),
    ] {
        run(&source, more).await;
        let dir = folder.path().join(name);
        let manifest = dump(&source, &dir, &for_staging(), DumpOptions::default(), &mut quiet).await.unwrap();
        let golden = source.with_name("inward_golden");
        restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
        let proof = compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap();
        assert_eq!(proof.differences, [], "{name}");
        let client = golden.connect().await.unwrap();
        assert_eq!(
            number(&client, "select count(*) from pg_matviews where ispopulated").await,
            filled,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_view_that_calls_an_extension_that_reaches_out_is_not_filled() {
    let Some((_, source)) = fresh("outward").await else { return };
    let client = source.connect().await.unwrap();
    if number(&client, "select count(*) from pg_available_extensions where name = 'hstore'").await == 0 {
        return piton_testkit::postgres::skip("the contributed modules of PostgreSQL");
    }
    run(
        &source,
        "create extension hstore;
         create materialized view direct as select akeys('a=>1');
         create function own() returns int language plpgsql as 'begin return 1; end';
         create materialized view through as select own()",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    // Those that reach out are on few servers: one that is there goes by their names.
    let mut name = "hstore";
    for (other, wanted) in
        [("hstore", 0), ("http", 2), ("pg_net", 2), ("aws_s3", 2), ("aws_lambda", 2), ("pg_netting", 0)]
    {
        run(&source, &format!("update pg_extension set extname = '{other}' where extname = '{name}'")).await;
        name = other;
        let dir = folder.path().join(name);
        let manifest = dump(&source, &dir, &for_staging(), DumpOptions::default(), &mut quiet).await.unwrap();
        let views = Neutralised::of(&manifest).foreign_views;
        assert_eq!(views.len(), wanted, "{name}: {views:?}");
    }
}

#[tokio::test]
async fn tables_are_left_empty_without_a_mask() {
    let Some((_, source)) = fresh("outboxed").await else { return };
    run(
        &source,
        "create table people (email text); insert into people values ('ada@mail.example');
         create table outbox (letter text); insert into outbox values ('Dear Ada'), ('Dear Bob')",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let with = |table: &str| DumpOptions { empty: [table.to_owned()].into(), ..DumpOptions::default() };
    let error = dump(&source, &dir, &for_staging(), with("outbx"), &mut quiet).await.unwrap_err();
    assert!(error.to_string().contains("there is no table outbx, which `data.empty` names"), "{error}");
    let manifest = dump(&source, &dir, &for_staging(), with("outbox"), &mut quiet).await.unwrap();
    assert!(manifest.mask.is_none());
    let golden = source.with_name("outboxed_golden");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    assert!(compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap().is_equal());
    let client = golden.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from outbox").await, 0);
    assert_eq!(number(&client, "select count(*) from people where email = 'ada@mail.example'").await, 1);
}

#[tokio::test]
async fn a_unique_column_too_short_for_its_stand_ins_is_refused() {
    let Some((_, source)) = fresh("short").await else { return };
    run(
        &source,
        "create table people (nick varchar(8) unique, mail varchar(26), login varchar(12) unique, short varchar(8));
         create unique index on people (mail)",
    )
    .await;
    let columns = [("nick", Kind::Name), ("mail", Kind::Email), ("login", Kind::Name), ("short", Kind::Name)];
    let mask = toml_of(&columns.map(|(column, kind)| ("people", column, kind)));
    let why = "it is unique, and too short for stand-ins that differ";
    assert_eq!(
        words(&refused(&source, &[], mask).await),
        [
            format!("public.people.nick (character varying(8)) cannot be masked as `name`: {why}"),
            format!("public.people.mail (character varying(26)) cannot be masked as `email`: {why}"),
        ]
    );
}

#[tokio::test]
async fn pg_cron_and_its_jobs_are_in_no_copy() {
    let settings = [("shared_preload_libraries", "pg_cron"), ("cron.database_name", "jobs")];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let Some(shared) = Cluster::shared() else { return };
    let there = "select count(*) from pg_available_extensions where name = 'pg_cron'";
    if number(&shared.connect("postgres").await, there).await == 0 {
        return skip("pg_cron");
    }
    let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
    cluster.create_database("jobs").await;
    let source = crate::database(&cluster, "jobs");
    run(
        &source,
        "create extension pg_cron; select cron.schedule('charge', '0 0 1 1 *', 'select charge_cards()');
         create role jobs_app; grant usage on schema cron to jobs_app; grant select on cron.job to jobs_app;
         grant execute on function cron.alter_job to jobs_app; comment on extension pg_cron is 'hourly';
         create table cron.kept (a int); comment on table cron.kept is 'x'; create index on cron.kept (a);
         alter default privileges in schema cron grant select on tables to jobs_app;
         create table items (id serial primary key, total int); insert into items (total) values (1), (2)",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    let manifest = dump(&source, &own, &shop(), DumpOptions::default(), &mut quiet).await.unwrap();
    assert_eq!(manifest.rows["\"cron\".\"job\""].rows, 1, "in the backup they are");
    let golden = source.with_name("jobs_golden");
    restore(&own, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    assert_eq!((proof.differences, proof.without_cron), (vec![], true));

    // Nobody is asked for the kinds of its columns.
    let dir = folder.path().join("backup");
    let manifest = masked(&source, &dir, &[], Mask::default()).await.unwrap();
    assert_eq!(manifest.rows["\"cron\".\"job\""].rows, 0);
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    let proof = compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap();
    assert_eq!((proof.differences, Neutralised::of(&manifest).cron), (vec![], true));

    // Nor where it can be, under the original's name: there a person takes the jobs up, as the documentation says.
    run(&source.with_name("postgres"), "drop database jobs with (force)").await;
    restore(&own, &source, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    let proof = compare(&Manifest::read(&own).unwrap(), &source, Owners::Kept, &mut quiet).await.unwrap();
    assert_eq!((proof.differences, proof.without_cron), (vec![], true));
    run(&source, "create extension pg_cron").await;
    let by_hand = std::process::Command::new(cluster.bin_dir().join("pg_restore"))
        .args([
            "--data-only",
            "--schema=cron",
            "--table=job",
            "--table=jobid_seq",
            "--exit-on-error",
            "--dbname",
            &cluster.url("jobs"),
        ])
        .arg(own.join("dump"))
        .status();
    assert!(by_hand.unwrap().success());
    run(&source, "select cron.schedule('another', '0 0 1 1 *', 'select 1')").await;
    assert_eq!(number(&source.connect().await.unwrap(), "select count(*) from cron.job").await, 2);
}

#[tokio::test]
async fn rows_that_a_mask_has_made_wrong_are_told_from_a_server_that_is_away() {
    let Some((_, source)) = fresh("wrong").await else { return };
    run(
        &source,
        "create table people (email varchar(60) primary key, pin text unique);
         create table orders (id int, buyer text references people (email));
         insert into people select i || '@mail.example', i::text from generate_series(1, 500) i;
         insert into orders select i, i || '@mail.example' from generate_series(1, 500) i",
    )
    .await;
    for (pin, buyer) in [(Kind::Digits, Kind::Email), (Kind::Keep, Kind::Text)] {
        let mask =
            toml_of(&[("people", "email", Kind::Email), ("people", "pin", pin), ("orders", "buyer", buyer)]);
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("backup");
        masked(&source, &dir, &[], mask).await.unwrap();
        let golden = source.with_name("wrong_golden");
        let error = restore(&dir, &golden, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await;
        let error = error.unwrap_err();
        assert!(error.is_of_rows(), "{error}");
        let mut nowhere = golden;
        nowhere.port = 1;
        let away = restore(&dir, &nowhere, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await;
        assert!(!away.unwrap_err().is_of_rows());
    }
}
