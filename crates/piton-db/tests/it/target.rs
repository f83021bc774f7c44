use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use fs_err as fs;
use piton_db::{Database, DbError};
use piton_exec::{Secret, local};
use piton_testkit::postgres::{Cluster, skip};

use crate::fresh;

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
fn certify(data: &Path) -> bool {
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
