use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use piton_db::changes::freeze;
use piton_db::{Database, DbError};
use piton_exec::{Secret, local};
use piton_testkit::pooler::{Pooler, StartupOptions};
use piton_testkit::postgres::{Cluster, Options, eventually, skip};
use tokio_postgres::NoTls;

use crate::{fresh, number, run};

fn parse(url: &str) -> Database {
    Database::parse(&Secret::from(url)).unwrap()
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named() {
    let Some((cluster, db)) = fresh("there").await else { return };
    let error = db.with_name("not_there").connect().await.unwrap_err();
    assert!(matches!(error, DbError::NoDatabase { .. }));
    assert!(error.to_string().contains("not_there"), "{error}");
    let nobody = parse(&cluster.url_as("nobody", "hunter2", "there")).connect().await.unwrap_err();
    assert!(matches!(nobody, DbError::Connect { .. }) && !format!("{nobody:?}").contains("hunter2"));
    // This server has no TLS.
    let error = parse(&format!("{}?sslmode=require", cluster.url("there"))).connect().await.unwrap_err();
    assert!(matches!(error, DbError::Connect { .. }), "{error}");
}

/// Makes a certificate for `localhost` that is its own root, owned as the server wants it.
pub(crate) fn certify(data: &Path) -> bool {
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return false;
    }
    let owner = fs::metadata(data).unwrap();
    for file in [&key, &certificate] {
        chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    true
}

#[tokio::test]
async fn tls_is_as_strict_as_the_url_says() {
    let Some(cluster) = Cluster::start() else { return };
    if !certify(&cluster.data_dir()) {
        return skip("openssl");
    }
    let admin = cluster.connect("postgres").await;
    if admin.batch_execute("alter system set ssl = on").await.is_err() {
        return skip("a PostgreSQL server built with TLS");
    }
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let base = |host: &str| format!("postgresql://postgres@{host}:{}/postgres", cluster.port());
    piton_testkit::postgres::eventually("the server offers TLS", async || {
        parse(&format!("{}?sslmode=require", base("localhost"))).connect().await.is_ok()
    })
    .await;
    let roots = cluster.data_dir().join("server.crt");
    let verified = format!("sslmode=verify-full&sslrootcert={}", roots.display());
    for (host, query, encrypted) in [
        ("127.0.0.1", "sslmode=disable", false),
        ("127.0.0.1", "sslmode=prefer", true),
        ("127.0.0.1", "sslmode=require", true),
        ("localhost", verified.as_str(), true),
    ] {
        let db = parse(&format!("{}?{query}", base(host)));
        let row = db.connect().await.unwrap().query_one(ssl, &[]).await.unwrap();
        assert_eq!(row.get::<_, bool>(0), encrypted, "{query}");
        // libpq's tools are told the same.
        let psql = cluster.bin_dir().join("psql").display().to_string();
        let psql = db.tool_env(piton_exec::Command::new(psql).args(["-Atc", ssl]));
        assert_eq!(local::run(&psql).await.unwrap().stdout, if encrypted { "t" } else { "f" }, "{query}");
    }
    // Another name, and a root that is not ours.
    for (host, query) in [("127.0.0.1", verified.as_str()), ("localhost", "sslmode=verify-full")] {
        let refused = parse(&format!("{}?{query}", base(host))).connect().await;
        assert!(matches!(refused, Err(DbError::Connect { .. } | DbError::Tls(_))), "{query}: {refused:?}");
    }
}

async fn setting(client: &tokio_postgres::Client, name: &str) -> String {
    let row = client.query_one("select current_setting($1)", &[&name]).await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn a_transaction_pooler_is_refused_and_its_sessions_stay_as_they_are() {
    let Some((cluster, _)) = fresh("pooled").await else { return };
    for options in [StartupOptions::Refused, StartupOptions::Dropped] {
        let Some(pooler) = Pooler::start(cluster, options) else { return };
        for _ in 0..3 {
            let error = parse(&pooler.url("pooled")).connect().await.unwrap_err();
            assert!(matches!(error, DbError::Pooler { .. }), "{options:?}: {error}");
        }
        assert!(matches!(parse(&pooler.url("pooled")).maintenance().await, Err(DbError::Pooler { .. })));
        // The app's next statement runs on a session that nobody has set anything on.
        let (app, connection) = tokio_postgres::connect(&pooler.url("pooled"), NoTls).await.unwrap();
        tokio::spawn(connection);
        for name in ["client_connection_check_interval", "lock_timeout", "statement_timeout"] {
            let said = app.simple_query(&format!("show {name}")).await.unwrap();
            let value = said.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            assert_eq!(value, Some("0"), "{name}");
        }
    }
}

#[tokio::test]
async fn the_apps_limits_are_not_a_sessions() {
    let Some((cluster, db)) = fresh("unlimited").await else { return };
    let limits =
        ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"];
    run(&db, "create role unlimited_app login").await;
    for limit in limits {
        run(&db, &format!("alter role unlimited_app set {limit} = '2s'")).await;
    }
    let app = parse(&cluster.url_as("unlimited_app", "x", "unlimited"));
    for session in [app.connect().await.unwrap(), app.maintenance().await.unwrap()] {
        for limit in limits {
            assert_eq!(setting(&session, limit).await, "0", "{limit}");
        }
        for (name, value) in [
            ("client_connection_check_interval", "1s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "30000"),
        ] {
            assert_eq!(setting(&session, name).await, value, "{name}");
        }
    }
}

#[tokio::test]
async fn a_freeze_does_not_outlast_a_silent_owner() {
    let Some((cluster, db)) = fresh("silent").await else { return };
    run(&db, "create table a (id int)").await;
    let frozen = freeze(&db, Duration::from_secs(5)).await.unwrap().unwrap();
    let began = Instant::now();
    let writer = cluster.connect("silent").await;
    let written = writer.batch_execute("insert into a values (1)");
    tokio::time::timeout(Duration::from_secs(60), written).await.unwrap().unwrap();
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(20), "{waited:?}");
    assert!(frozen.check().await.is_err());
}

/// A network of two ends, one of them in a name space of its own; both go when it is dropped.
struct Network {
    name: String,
    here: String,
}

impl Network {
    fn ip(args: &[&str]) -> bool {
        let done = Command::new("ip").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    }

    /// Makes the network; `None` when that is not allowed here.
    fn make() -> Option<Self> {
        let pid = std::process::id();
        // Addresses for measurements within a laboratory; four belong to each pair of ends.
        let net = |n: u32| format!("198.18.{}.{}", pid / 64 % 256, pid % 64 * 4 + n);
        let (name, there) = (format!("piton{pid}"), format!("pt{pid}"));
        let network = Self { name, here: net(1) };
        let (name, here) = (network.name.as_str(), format!("ph{pid}"));
        let made = Self::ip(&["netns", "add", name])
            && Self::ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name])
            && Self::ip(&["addr", "add", &format!("{}/30", network.here), "dev", &here])
            && Self::ip(&["link", "set", &here, "up"])
            && Self::ip(&["-n", name, "addr", "add", &format!("{}/30", net(2)), "dev", &there])
            && Self::ip(&["-n", name, "link", "set", &there, "up"]);
        made.then_some(network)
    }

    fn cut(&self) {
        assert!(Self::ip(&["-n", &self.name, "link", "set", &format!("pt{}", std::process::id()), "down"]));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        Self::ip(&["link", "del", &format!("ph{}", std::process::id())]);
        Self::ip(&["netns", "del", &self.name]);
    }
}

/// The variable that makes the test below the part of it which runs behind the network.
const BEHIND: &str = "PITON_TEST_BEHIND";

#[tokio::test]
async fn what_a_host_that_fell_silent_has_locked_is_freed() {
    if let Ok(url) = std::env::var(BEHIND) {
        let db = parse(&url);
        let (idle, busy) = (db.connect().await.unwrap(), db.connect().await.unwrap());
        idle.batch_execute("begin; lock table a").await.unwrap();
        busy.batch_execute("begin; lock table b; select pg_sleep(600)").await.unwrap();
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return skip("root, for a network of its own");
    }
    let Some(network) = Network::make() else { return skip("a network name space") };
    let addresses = format!("127.0.0.1,{}", network.here);
    let options = Options { settings: vec![("listen_addresses", addresses)], ..Options::default() };
    let Some(cluster) = Cluster::start_with(options) else { return };
    let admission = cluster.data_dir().join("pg_hba.conf");
    let admitted = fs::read_to_string(&admission).unwrap() + "host all all 198.18.0.0/15 trust\n";
    fs::write(&admission, admitted).unwrap();
    let client = cluster.connect("postgres").await;
    client
        .batch_execute("select pg_reload_conf(); create table a (id int); create table b (id int)")
        .await
        .unwrap();

    let mut behind = Command::new("ip")
        .args(["netns", "exec", &network.name])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "target::what_a_host_that_fell_silent_has_locked_is_freed"])
        .env(BEHIND, format!("postgresql://postgres@{}:{}/postgres", network.here, cluster.port()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let there = "select count(*) from pg_stat_activity where client_addr <<= '198.18.0.0/15'
                 and (state = 'idle in transaction' or wait_event = 'PgSleep')";
    eventually("both have their locks", async || number(&client, there).await == 2).await;
    network.cut();
    let began = Instant::now();
    let written = client.batch_execute("insert into a values (1); insert into b values (1)");
    let written = tokio::time::timeout(Duration::from_secs(90), written).await;
    let waited = began.elapsed();
    behind.kill().unwrap();
    behind.wait().unwrap();
    written.unwrap().unwrap();
    assert!(waited > Duration::from_secs(5), "the link was not cut: {waited:?}");
}
