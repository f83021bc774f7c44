use super::super::{load, propose};
use super::folder;

/// Proposes for a folder, writes the file there, and resolves all of its environments.
fn accepted(files: &[(&str, &str)]) -> String {
    let dir = folder(files);
    let proposal = propose(dir.path());
    std::fs::write(dir.path().join("piton.toml"), &proposal.text).unwrap();
    let config = load(dir.path()).unwrap_or_else(|error| panic!("{}", super::render(&error)));
    let process = |name: &str| (name == "DATABASE_URL").then(|| "postgres:///d".to_owned());
    for environment in config.environments() {
        config.environment(environment, &process).unwrap_or_else(|error| panic!("{}", super::render(&error)));
    }
    format!("{}\n---\n{}", proposal.found.join("\n"), proposal.text)
}

#[test]
fn a_node_app_with_everything() {
    let package = r#"{ "name": "@acme/Electricity Tokens", "scripts": { "build": "next build", "start": "next start" } }"#;
    insta::assert_snapshot!(accepted(&[
        ("package.json", package),
        ("package-lock.json", "{}"),
        ("src/app/api/health/route.ts", ""),
        ("db/migrations/0001.sql", ""),
        (".env.production", "DATABASE_URL=postgres:///et"),
        (".env.staging", "DATABASE_URL=postgres:///et_staging"),
        (".env.example", ""),
        (".env.local", ""),
    ]));
}

#[test]
fn a_cargo_app_with_a_procfile() {
    insta::assert_snapshot!(accepted(&[
        ("Cargo.toml", "[package]\nname = \"shop_server\"\nversion = \"1.0.0\"\n"),
        ("Procfile", "worker: bin/worker\nweb: target/release/shop_server --port $PORT --name 'a \"b\"'\n"),
    ]));
}

#[test]
fn a_shells_variable_stays_the_shells() {
    let dir = folder(&[("Procfile", "web: bin/server -p ${PORT:-3000} --pid $$\n")]);
    std::fs::write(dir.path().join("piton.toml"), propose(dir.path()).text).unwrap();
    let settings = load(dir.path()).unwrap().environment("staging", &|_| None).unwrap();
    assert_eq!(settings.run.command.args, ["-c", "exec bin/server -p ${PORT:-3000} --pid $$"]);
}

#[test]
fn every_migration_tool_is_recognised() {
    for (file, lines) in [
        ("prisma/migrations/1/migration.sql", "migrations = \"prisma\"\nfolder = \"prisma/migrations\""),
        ("migrations/env.py", "migrations = \"alembic\"\nfolder = \"migrations\""),
        ("manage.py", "migrations = \"django\"\nfolder = \".\""),
        ("sqitch.plan", "migrations = \"sqitch\"\nfolder = \".\""),
        ("migrations/1_a.up.sql", "migrations = \"golang-migrate\"\nfolder = \"migrations\""),
        ("migrations/1_a.sql", "\nfolder = \"migrations\""),
    ] {
        let text = accepted(&[(file, ""), (".env.production", "DATABASE_URL=postgres:///d")]);
        assert!(text.contains(lines), "{file}: {text}");
    }
}

#[test]
fn an_empty_folder() {
    let dir = folder(&[("shop/.keep", "")]);
    let shop = dir.path().join("shop");
    let proposal = propose(&shop);
    assert!(proposal.found.is_empty());
    insta::assert_snapshot!(proposal.text);
    std::fs::write(shop.join("piton.toml"), &proposal.text).unwrap();
    assert_eq!(load(&shop).unwrap().environments(), ["staging", "production"]);
}

#[test]
fn an_app_with_one_environment_of_its_own_name() {
    let text = accepted(&[(".env.preview", "DATABASE_URL=postgres:///d"), ("package.json", "not json")]);
    assert!(text.contains("[environments.preview]") && text.contains("[database]"), "{text}");
    assert!(!text.contains("[rollout]"), "{text}");
}
