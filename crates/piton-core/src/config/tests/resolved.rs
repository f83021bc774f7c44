use std::path::{Path, PathBuf};
use std::time::Duration;

use piton_db::mask::Kind;
use piton_db::migrate::Tool;
use piton_exec::ExposeSecret;
use proptest::prelude::*;

use super::super::{
    CheckKind, CommandLine, ConfigError, Data, Origin, Percent, ReferentialAction, Scalar, equal_secrets,
    live_keys_outside_protected, load, test_keys_inside_protected,
};
use super::{FULL, SMALL, folder, read, render, resolve};
use crate::retention::Retention;

const STAGING: (&str, &str) =
    (".env.staging", "DATABASE_URL=postgres://u:hunter2@localhost/et_staging\nNODE_ENV=staging\n");
const PRODUCTION: (&str, &str) = (
    ".env.production",
    "NODE_ENV=production\nDATABASE_URL=postgres://u:hunter3@localhost/et\nBACKUP_KEY=key4\nBACKUP_SECRET=hunter4\n",
);

#[test]
fn every_key_arrives() {
    let dir = folder(&[("piton.toml", FULL), STAGING, PRODUCTION]);
    let below = dir.path().join("src/deep");
    std::fs::create_dir_all(&below).unwrap();
    let config = load(&below).unwrap();
    assert_eq!(config.environments(), ["staging", "production"]);
    assert_eq!(config.app(), "electricity-tokens");
    let settings = config.environment("production", &|_| None).unwrap();

    assert_eq!(settings.root, dir.path().canonicalize().unwrap());
    assert!(settings.protected);
    assert_eq!(settings.after.as_deref(), Some("staging"));
    assert_eq!(settings.build.run.len(), 2);
    assert_eq!(settings.run.command.args, ["--name", "two words"]);
    assert_eq!((settings.run.ports.blue, settings.run.ports.green), (3001, 3002));
    assert_eq!(settings.listen.to_string(), "0.0.0.0:80");
    assert_eq!(settings.rollout.steps[0].share, Percent::from_basis_points(500).unwrap());
    assert_eq!(settings.rollout.watch, Duration::from_secs(86_400));
    assert_eq!(settings.gate.errors, Percent::from_basis_points(50).unwrap());
    assert_eq!(settings.gate.p95, Some(Duration::from_millis(500)));
    assert_eq!(settings.data, None);
    let keep = Duration::from_secs(14 * 86_400);
    assert_eq!(settings.backup.retention, Retention { keep, last: 3, daily: 30, weekly: 12 });
    assert_eq!(settings.backup.to, settings.root.join("backups/"));
    assert_eq!(settings.backup.files, [settings.root.join("uploads")]);
    assert_eq!(settings.backup.recipients.len(), 1);
    let store = settings.backup.store.as_ref().unwrap();
    assert_eq!(store.to_string(), "s3://shop-backups/piton");
    assert_eq!(store.endpoint.as_deref(), Some("https://s3.example.com"));
    assert_eq!(store.region, "eu-central-1");
    assert_eq!(store.keys.as_ref().unwrap().1.expose_secret(), "hunter4");
    assert!(!format!("{store:?}").contains("hunter4"));
    assert_eq!(settings.window.as_ref().unwrap().to_string(), "Tue 10:00-12:00 America/New_York");
    assert_eq!(settings.vars["NODE_ENV"].expose_secret(), "production");
    assert!(settings.shared_secrets.contains("SENTRY_DSN"));
    let database = settings.database.as_ref().unwrap();
    assert_eq!(database.url.expose_secret(), "postgres://u:hunter3@localhost/et");
    assert_eq!(database.migrations.as_ref().unwrap().folder, PathBuf::from("migrations"));
    let [down] = &database.downs[..] else { panic!("{:?}", database.downs) };
    assert_eq!((&*down.migration, &*down.table), ("0042_cents.sql", "public.TokenPurchase"));
    assert_eq!((&*down.column, &*down.is), ("amount", "amount_cents / 100.0"));

    let kinds: Vec<&CheckKind> = settings.checks.iter().map(|check| &check.kind).collect();
    let [CheckKind::Http(http), CheckKind::Sql(sql), CheckKind::Table(table)] = kinds[..] else {
        panic!("{kinds:?}");
    };
    assert_eq!(http.status, 200);
    let json: Vec<_> = http.json.iter().map(|e| (e.path.join("/"), e.value.as_str().unwrap())).collect();
    let expected = [("database/state", "connected"), ("environment", "production"), ("status", "ok")];
    assert_eq!(json, expected.map(|(path, value)| (path.to_owned(), value)));
    assert_eq!(sql.expect, Scalar::Integer(0));
    assert_eq!(table.table.to_string(), "public.ReceiptData");
    let columns: Vec<_> = table.columns.iter().map(|c| (&*c.name, &*c.data_type, c.nullable)).collect();
    assert_eq!(columns, [("id", "text", false), ("tokenNumber", "text", true)]);
    assert_eq!(table.foreign_keys[0].referenced, ["id"]);
    assert_eq!(table.foreign_keys[0].on_delete, ReferentialAction::Cascade);
    assert_eq!(settings.checks[0].within, Some(Duration::from_millis(500)));
}

#[test]
fn little_has_to_be_said() {
    let settings = resolve(SMALL, &[], "production", &[]).unwrap();
    assert!(settings.database.is_none() && settings.window.is_none() && settings.checks.is_empty());
    assert_eq!(settings.rollout.steps.len(), 4);
    assert_eq!(settings.run.ready.within, Duration::from_secs(60));

    let unprotected = SMALL.replace("protected = true\n", "");
    let settings = resolve(&unprotected, &[], "production", &[]).unwrap();
    assert_eq!(settings.rollout.steps.len(), 1);
    assert_eq!(settings.rollout.watch, Duration::ZERO);
}

#[test]
fn an_environment_can_change_one_half_of_the_rollout() {
    let own = format!("{SMALL}rollout = {{ watch = \"1h\" }}\n[rollout]\nsteps = [\"100% for 5m\"]\n");
    let settings = resolve(&own, &[], "production", &[]).unwrap();
    assert_eq!(settings.rollout.steps[0].bake, Duration::from_secs(300));
    assert_eq!(settings.rollout.watch, Duration::from_secs(3600));
}

#[test]
fn migrations_are_found() {
    let database = format!("{SMALL}[database]\n");
    let folder_of = |files: &[(&str, &str)]| {
        let settings = resolve(&database, files, "production", &[("DATABASE_URL", "postgres:///d")]).unwrap();
        settings.database.unwrap().migrations.map(|migrations| migrations.folder)
    };
    assert_eq!(folder_of(&[]), None);
    assert_eq!(folder_of(&[("db/migrations/1.sql", "")]), Some(PathBuf::from("db/migrations")));
    let both = [("db/migrations/1.sql", ""), ("migrations/1.sql", "")];
    assert_eq!(folder_of(&both), Some(PathBuf::from("migrations")));
}

#[test]
fn a_tools_folder_is_found_by_its_convention() {
    let of = |lines: &str, files: &[(&str, &str)]| {
        let text = format!("{SMALL}[database]\n{lines}\n");
        let settings = resolve(&text, files, "production", &[("DATABASE_URL", "postgres:///d")])?;
        Ok::<_, ConfigError>(settings.database.unwrap().migrations.unwrap())
    };
    for (word, tool, file, folder) in [
        ("prisma", Tool::Prisma, "prisma/migrations/1/migration.sql", "prisma/migrations"),
        ("alembic", Tool::Alembic, "alembic/env.py", "alembic"),
        ("django", Tool::Django, "backend/manage.py", "backend"),
        ("django", Tool::Django, "manage.py", "."),
        ("golang-migrate", Tool::GolangMigrate, "db/migrations/1_a.up.sql", "db/migrations"),
        ("sqitch", Tool::Sqitch, "sqitch.plan", "."),
    ] {
        let line = format!("migrations = \"{word}\"");
        let found = of(&line, &[(file, "")]).unwrap();
        assert_eq!((found.tool, found.folder), (tool, PathBuf::from(folder)), "{file}");
        let error = of(&line, &[("unrelated", "")]).unwrap_err();
        assert!(render(&error).contains("database.folder"), "{}", render(&error));
        of(&format!("{line}\nfolder = \"elsewhere\""), &[("unrelated", "")]).unwrap();
        let error = render(&of("folder = \"elsewhere\"", &[(file, "")]).unwrap_err());
        let said =
            error.contains("`database.migrations` is missing") && error.contains(&format!("\"{word}\""));
        assert!(said, "{error}");
        of("migrations = \"sql\"\nfolder = \"elsewhere\"", &[(file, "")]).unwrap();
    }
    let line = "migrations = { apply = \"rake db:migrate\", status = \"rake 'a b'\" }";
    let commands = Tool::Commands {
        apply: vec!["rake".into(), "db:migrate".into()],
        status: vec!["rake".into(), "a b".into()],
    };
    assert_eq!(of(line, &[]).unwrap().tool, commands);
}

#[test]
fn the_env_file_wins_over_the_operators_shell() {
    let stray = [("DATABASE_URL", "postgres://u:p@production/et"), ("NODE_ENV", "production")];
    let settings = resolve(FULL, &[STAGING], "staging", &stray).unwrap();
    let url = settings.database.unwrap().url;
    assert_eq!(url.expose_secret(), "postgres://u:hunter2@localhost/et_staging");
}

#[test]
fn every_value_knows_where_it_came_from() {
    let text = FULL.replace("\"127.0.0.1:8080\"", "\"127.0.0.1:${PORT}\"");
    let settings = resolve(&text, &[STAGING], "staging", &[("PORT", "9090")]).unwrap();
    let lines: Vec<String> = settings
        .origins()
        .iter()
        .map(|entry| format!("{} = {} ({})", entry.key, entry.value, entry.origin))
        .collect();
    let text = lines.join("\n");
    insta::assert_snapshot!(text);
    assert!(!text.contains("hunter"));
    let find = |key: &str| settings.origins().iter().find(|entry| entry.key == key).unwrap();
    assert_eq!(
        find("environments.staging.listen").origin,
        Origin::Environment { variable: "PORT".to_owned() }
    );
    let env_file = Origin::EnvFile { path: ".env.staging".into(), line: 1 };
    assert_eq!(find("database.url").origin, env_file);
    assert_eq!(find("environments.staging.backup.keep").origin, Origin::Default);
}

#[test]
fn no_secret_is_printed() {
    let settings = resolve(FULL, &[STAGING], "staging", &[]).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    let broken = (".env.staging", "DATABASE_URL='postgres://u:hunter2@localhost/et_staging\n");
    let error = resolve(FULL, &[broken], "staging", &[]).unwrap_err();
    assert!(!render(&error).contains("hunter2") && !format!("{error:?}").contains("hunter2"));
    let elsewhere = (".env.staging", "DATABASE_URL=mysql://u:hunter2@localhost/et_staging\nNODE_ENV=x\n");
    let error = resolve(FULL, &[elsewhere], "staging", &[]).unwrap_err();
    assert!(!render(&error).contains("hunter2") && !format!("{error:?}").contains("hunter2"));
}

#[test]
fn checks_survive_the_plan() {
    let settings = resolve(FULL, &[STAGING], "staging", &[]).unwrap();
    let json = serde_json::to_string(&settings.checks).unwrap();
    let back: Vec<super::super::Check> = serde_json::from_str(&json).unwrap();
    assert_eq!(back, settings.checks);
}

#[test]
fn a_fresh_database_and_its_seed() {
    let fresh = |more: &str| {
        let text = format!(
            "{SMALL}[database]\n[environments.staging]\nlisten = \"8081\"\nports = {{ blue = 3101, green = 3102 }}\n\
             data = {{ fresh = true{more} }}\n"
        );
        let files = [(".env.staging", "DATABASE_URL=postgres:///s\n")];
        resolve(&text, &files, "staging", &[]).unwrap_or_else(|e| panic!("{}", render(&e))).data
    };
    assert_eq!(fresh(""), Some(Data::Fresh { seed: None }));
    let seed = CommandLine { program: "node".into(), args: vec!["prisma/my seed.js".into()] };
    assert_eq!(fresh(", seed = \"node 'prisma/my seed.js'\""), Some(Data::Fresh { seed: Some(seed) }));
}

#[test]
fn the_example_can_be_released() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/electricity-tokens");
    let text = |name: &str| std::fs::read_to_string(example.join(name)).unwrap();
    let (staging, production) = (text(".env.staging.example"), text(".env.production.example"));
    let files = [(".env.staging", staging.as_str()), (".env.production", production.as_str())];
    let settings =
        |name| resolve(&text("piton.toml"), &files, name, &[]).unwrap_or_else(|e| panic!("{}", render(&e)));
    let (staging, production) = (settings("staging"), settings("production"));
    assert!(equal_secrets(&staging, &production).is_empty());
    assert!(
        live_keys_outside_protected(&staging).is_empty()
            && test_keys_inside_protected(&production).is_empty()
    );
    assert_eq!(staging.data.unwrap().source().unwrap().environment, "production");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a slip of the keys makes of a file, the answer is settings or an error that can be shown.
    #[test]
    fn a_damaged_file_is_answered(from in 0..FULL.len(), gone in 0_usize..12, added in "[a-z0-9=\"'{}\\[\\].$\n]{0,3}") {
        let mut text = FULL.to_owned();
        text.replace_range(from..(from + gone).min(FULL.len()), &added);
        if let Err(error) = read(&text) {
            prop_assert!(error.messages().count() > 0);
            prop_assert!(!render(&error).is_empty());
        }
    }
}

#[test]
fn a_dollar_sign_can_be_meant() {
    let text = SMALL.replace("bin/server", "bin/server $$HOME $1 $${X}");
    let settings = resolve(&text, &[], "production", &[]).unwrap();
    assert_eq!(settings.run.command.args, ["$HOME", "$1", "${X}"]);
    assert!(read(SMALL).is_ok());
}

#[test]
fn a_mask_is_read_and_its_mistakes_are_told() {
    let text = format!(
        "{SMALL}[database]\n[environments.staging]\nlisten = \"8081\"\nports = {{ blue = 3101, green = 3102 }}\n\
         data = {{ from = \"production\", empty = [\"outbox\"], mask = \"mask.toml\" }}\n"
    );
    let with = |mask: &str| {
        let files = [("mask.toml", mask), (".env.staging", "DATABASE_URL=postgres:///d\n")];
        resolve(&text, &files, "staging", &[])
    };
    let settings = with("[columns.people]\nemail = \"email\"\n").unwrap();
    let data = settings.data.unwrap();
    assert!(data.source().unwrap().empty.contains("outbox"));
    let mask = data.source().unwrap().mask.clone().unwrap();
    assert_eq!(mask.mask.columns["people"]["email"], Kind::Email);
    for (mask, told) in [
        ("[columns.people]\nemail = \"mail\"\n", "line 2"),
        ("colums = 1\n", "colums"),
        ("large_objects = \"burn\"\n", "burn"),
        (
            "[columns.people]\nemail = \"email\"\n[columns.\"public.people\"]\nphone = \"digits\"\n",
            "[columns.people] and [columns.\"public.people\"] are one table",
        ),
    ] {
        let told_there = render(&with(mask).unwrap_err());
        assert!(told_there.contains("mask.toml") && told_there.contains(told), "{told_there}");
    }
    let files = [(".env.staging", "DATABASE_URL=postgres:///d\n")];
    let missing = render(&resolve(&text, &files, "staging", &[]).unwrap_err());
    assert!(missing.contains("the mask cannot be read"), "{missing}");
}
