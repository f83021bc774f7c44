use super::super::load;
use super::{FULL, SMALL, folder, read, render, resolve};

/// Makes one change to the full configuration and returns how the mistake is told.
fn changed(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "the configuration has no {from}");
    wrong(&FULL.replacen(from, to, 1))
}

fn wrong(text: &str) -> String {
    render(&read(text).unwrap_err())
}

#[test]
fn unknown_keys_are_told_all_at_once() {
    let text = FULL
        .replace("steps = [\"5%", "step = [\"5%")
        .replace("errors", "erors")
        .replace("protected = true", "protect = true")
        .replace("on_update", "onupdate");
    insta::assert_snapshot!(wrong(&text));
}

#[test]
fn a_key_in_the_wrong_table() {
    insta::assert_snapshot!(changed("stop_within = \"10s\"", "listen = \"0.0.0.0:80\""));
}

#[test]
fn an_unknown_table() {
    insta::assert_snapshot!(changed("[secrets]", "[traffic]"));
}

#[test]
fn a_tool_that_does_not_exist() {
    insta::assert_snapshot!(changed("with = \"process\"", "with = \"proces\""));
}

#[test]
fn what_is_missing() {
    insta::assert_snapshot!(wrong(
        "app = \"shop\"\n\n[run]\ncommand = \"x\"\n\n[environments.a]\nlisten = \"80\"\n"
    ));
}

#[test]
fn nothing_at_all() {
    insta::assert_snapshot!(wrong(""));
}

#[test]
fn not_toml() {
    insta::assert_snapshot!(changed("[build]", "[build"));
}

#[test]
fn a_key_twice() {
    insta::assert_snapshot!(changed("watch = \"24h\"", "watch = \"24h\"\nwatch = \"25h\""));
}

#[test]
fn wrong_types() {
    let text = FULL
        .replace("errors = \"0.5%\"", "errors = 0.5")
        .replace("protected = true", "protected = \"yes\"")
        .replace("watch = \"24h\"", "watch = 24")
        .replace("blue = 3101", "blue = 70000")
        .replace("expect = 0", "expect = 0.5")
        .replace("status = \"ok\"", "status = 2025-01-01");
    insta::assert_snapshot!(wrong(&text));
}

#[test]
fn wrong_values() {
    let text = FULL
        .replace("\"0.5%\"", "\"0.5\"")
        .replace("\"500ms\"\nat", "\"half a second\"\nat")
        .replace("bin/server --name 'two words'", "bin/server --name 'two words")
        .replace("Tue 10:00", "Tues 10:00")
        .replace("listen = \"80\"", "listen = \"localhost:80\"")
        .replace("/api/health\", within", "api/health\", within")
        .replace("folder = \"migrations\"", "folder = \"/srv/migrations\"");
    insta::assert_snapshot!(wrong(&text));
}

#[test]
fn a_rollout_that_goes_down() {
    insta::assert_snapshot!(changed("\"50% for 8h\", \"100%\"", "\"20% for 8h\", \"90%\""));
}

#[test]
fn a_rollout_for_nobody() {
    insta::assert_snapshot!(changed("protected = true\n", ""));
}

#[test]
fn a_step_with_a_wrong_time() {
    insta::assert_snapshot!(changed("25% for 4h", "25% for 4 moons"));
}

#[test]
fn an_environment_that_does_not_exist() {
    insta::assert_snapshot!(changed("from = \"production\"", "from = \"prodution\""));
}

#[test]
fn data_from_nowhere_or_from_two_places() {
    let from = "from = \"production\"";
    let told = [
        changed(from, "from = \"production\", fresh = true, seed = \"bin/seed\""),
        changed(from, "fresh = false"),
        changed(from, "fresh = true, mask = \"mask.toml\", empty = [\"outbox\"]"),
        changed("after = \"staging\"", "data = { fresh = true }"),
    ];
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn environments_that_wait_for_one_another() {
    insta::assert_snapshot!(changed("data = { from = \"production\" }", "after = \"production\""));
}

#[test]
fn production_made_from_staging() {
    insta::assert_snapshot!(changed("after = \"staging\"", "data = { from = \"staging\" }"));
}

#[test]
fn ports_that_collide() {
    let text = FULL.replace("green = 3102", "green = 3101").replace("listen = \"80\"", "listen = \"3001\"");
    insta::assert_snapshot!(wrong(&text));
}

#[test]
fn checks_that_do_not_fit() {
    let text = FULL
        .replace("name = \"script\"", "name = \"health\"")
        .replace("command = \"scripts/smoke\"", "command = \"scripts/smoke\"\nexpect = 0")
        .replace("expect = 0\n\n", "expect = { status = 200 }\n\n")
        .replace("table = \"public.ReceiptData\"\n", "");
    insta::assert_snapshot!(wrong(&text));
}

#[test]
fn columns_and_keys_that_cannot_be() {
    let text = FULL
        .replace("\"text not null\"", "\"not null\"")
        .replace("TokenPurchase(id)", "TokenPurchase(id, tenant)")
        .replace("public.ReceiptData", "\\\"ReceiptData\\\"");
    insta::assert_snapshot!(wrong(&text));
}

#[test]
fn down_expressions_that_cannot_be() {
    let down = |keys: &str| wrong(&format!("{FULL}\n[[database.down]]\n{keys}\n"));
    let all = [
        "migration = \"0042_cents.sql\"\ntable = \"public.TokenPurchase\"\ncolumn = \"amount\"\nis = \"amount\"",
        "migration = \"0043.sql\"\ntable = \"public.\"\ncolumn = \"amount\"\nis = \" \"",
        "migration = \"0043.sql\"\ntable = \"t\"\ncolum = \"amount\"\nis = \"a\"",
    ]
    .map(down);
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn checks_without_a_database() {
    let database = "[database]\nengine = \"postgres\"\nurl = \"${DATABASE_URL}\"\nmigrations = \"sql\"\nfolder = \"migrations\"\n";
    let (text, _) = FULL.split_once("\n[[database.down]]").unwrap();
    insta::assert_snapshot!(wrong(&text.replace(database, "")));
}

#[test]
fn a_password_in_the_file() {
    let text = wrong(&FULL.replace("${DATABASE_URL}", "postgres://app:hunter2@db/app"));
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text);
}

#[test]
fn a_store_that_cannot_be() {
    let store = |keys: &str| {
        let text = format!("{SMALL}[environments.production.backup.store]\n{keys}\n");
        render(&resolve(&text, &[], "production", &[("KEY", "key")]).unwrap_err())
    };
    let open = store("url = \"s3://b\"\naccess_key = \"AKIA\"\nsecret_key = \"hunter2\"");
    assert!(!open.contains("hunter2"));
    let wrong = [
        open,
        store("url = \"/backups\"\nendpoint = \"http://s3.example.com\""),
        store("url = \"s3://b\"\nendpoint = \"s3.example.com\""),
        store("url = \"s3://b\"\naccess_key = \"${KEY}\""),
    ];
    insta::assert_snapshot!(wrong.join("\n"));
}

#[test]
fn files_with_secrets_or_backups_in_them() {
    let packed = |file: &str| {
        let backup = format!("backup = {{ files = [\"uploads\", \"{file}\"] }}\nports =");
        wrong(&SMALL.replace("ports =", &backup))
    };
    let all = [".", "x/../.env.production", "backups/shop/staging", ".piton/mask.key", "/srv"].map(packed);
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn names_that_cannot_be() {
    let text = SMALL
        .replace("\"shop\"", "\"My Shop\"")
        .replace("environments.production", "environments.\"the real one\"");
    insta::assert_snapshot!(wrong(&text));
}

#[test]
fn a_variable_that_nobody_sets() {
    let files = [(".env.staging", "NODE_ENV=staging\n")];
    insta::assert_snapshot!(render(&resolve(FULL, &files, "staging", &[]).unwrap_err()));
}

#[test]
fn a_variable_without_an_env_file() {
    let text = format!("{SMALL}[database]\n");
    insta::assert_snapshot!(render(&resolve(&text, &[], "production", &[]).unwrap_err()));
}

#[test]
fn a_variable_that_never_ends() {
    insta::assert_snapshot!(changed("\"${DATABASE_URL}\"", "\"${DATABASE_URL\""));
}

#[test]
fn a_secret_in_a_command() {
    let text = FULL.replace("bin/server --name", "bin/server --key ${STRIPE_KEY} --name");
    let files = [(".env.staging", "NODE_ENV=x\nSTRIPE_KEY=sk_test_hunter2\nDATABASE_URL=postgres:///et\n")];
    let text = render(&resolve(&text, &files, "staging", &[]).unwrap_err());
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text);
}

#[test]
fn a_value_that_a_variable_made_wrong() {
    let text = FULL.replace("\"127.0.0.1:8080\"", "\"127.0.0.1:${PORT}\"");
    let files = [(".env.staging", "PORT=http\nNODE_ENV=x\nDATABASE_URL=mysql://h/d\n")];
    insta::assert_snapshot!(render(&resolve(&text, &files, "staging", &[]).unwrap_err()));
}

#[test]
fn an_env_file_that_is_not_there() {
    insta::assert_snapshot!(render(&resolve(FULL, &[], "staging", &[]).unwrap_err()));
}

#[test]
fn an_env_file_that_cannot_be_read() {
    let files = [(".env.staging", "NODE_ENV=staging\nhunter2\n")];
    let text = render(&resolve(FULL, &files, "staging", &[]).unwrap_err());
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text);
}

#[test]
fn an_environment_that_is_asked_for_wrongly() {
    insta::assert_snapshot!(render(&resolve(FULL, &[], "prod", &[]).unwrap_err()));
}

#[test]
fn no_file() {
    let dir = folder(&[]);
    let text = render(&load(dir.path()).unwrap_err());
    assert!(
        text.contains("there is no piton.toml in") && text.contains("write one with `piton init`"),
        "{text}"
    );
}
