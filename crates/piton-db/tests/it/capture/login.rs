use fs_err as fs;
use piton_db::capture::Stream;
use piton_db::{Database, DbError};
use piton_exec::Secret;
use piton_testkit::pooler::{Pooler, StartupOptions};
use piton_testkit::postgres::{eventually, skip};

use super::{fresh, start, told, transactions};
use crate::{number, run};

fn parse(url: &str) -> Database {
    Database::parse(&Secret::from(url)).unwrap()
}

/// Opens a stream and sees what is written.
async fn reads(live: &Database, writer: &Database) {
    let mut stream = Stream::temporary(live).await.unwrap_or_else(|error| panic!("{live}: {error}"));
    run(writer, "insert into t values (1)").await;
    assert_eq!(transactions(told(&mut stream, writer).await).len(), 1);
}

#[tokio::test]
async fn every_way_to_give_a_password_is_known() {
    let Some((cluster, live)) = fresh("capture_login").await else { return };
    let client = live.connect().await.unwrap();
    client
        .batch_execute(
            "create table t (id int);
             create role capture_scram login replication password 'p w''ä%';
             create role capture_plain login replication password 'p w''ä%';
             set password_encryption = 'md5'; create role capture_md5 login replication password 'p w''ä%';
             create role capture_none login",
        )
        .await
        .unwrap();
    // The first line that fits counts; nobody else's session is touched.
    let file = cluster.data_dir().join("pg_hba.conf");
    let admitted = "host capture_login capture_scram all scram-sha-256\nhost capture_login capture_md5 all md5\n\
                    host capture_login capture_plain all password\n";
    fs::write(&file, admitted.to_owned() + &fs::read_to_string(&file).unwrap()).unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    let asked = parse(&cluster.url_as("capture_scram", "x", "capture_login"));
    eventually("passwords are asked for", async || asked.connect().await.is_err()).await;

    for user in ["capture_scram", "capture_md5", "capture_plain"] {
        reads(&parse(&cluster.url_as(user, "p%20w%27%C3%A4%25", "capture_login")), &live).await;
        let error =
            Stream::temporary(&parse(&cluster.url_as(user, "hunter2", "capture_login"))).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "28P01", "{error}");
        assert!(error.to_string().contains(user) && !format!("{error:?}").contains("hunter2"), "{error:?}");
        let none = format!("postgresql://{user}@127.0.0.1:{}/capture_login", cluster.port());
        let error = Stream::temporary(&parse(&none)).await.unwrap_err();
        assert!(error.to_string().contains("asks for a password"), "{error}");
    }
    let error =
        Stream::temporary(&parse(&cluster.url_as("capture_none", "x", "capture_login"))).await.unwrap_err();
    assert!(
        matches!(error, DbError::Replication { .. }) && error.to_string().contains("replication"),
        "{error}"
    );
    let error = Stream::temporary(&live.with_name("not_there")).await.unwrap_err();
    assert!(matches!(error, DbError::NoDatabase { .. }), "{error}");
    let error = Stream::temporary(&parse("postgresql://u@127.0.0.1:1/d")).await.unwrap_err();
    assert!(matches!(error, DbError::Replication { code: None, .. }), "{error}");

    let socket = cluster.socket_dir().display();
    let socket = format!("postgresql://postgres@/capture_login?host={socket}&port={}", cluster.port());
    reads(&parse(&socket), &live).await;
    let error = Stream::temporary(&parse(&format!("{socket}&sslmode=require"))).await.unwrap_err();
    assert!(matches!(error, DbError::Tls(_)), "{error}");

    let latin = "create database capture_latin encoding 'LATIN1' locale 'C' template template0";
    client.batch_execute(latin).await.unwrap();
    let error = Stream::temporary(&live.with_name("capture_latin")).await.unwrap_err();
    assert!(error.to_string().contains("encoding is LATIN1"), "{error}");
}

#[tokio::test]
async fn tls_is_as_strict_as_the_url_says() {
    let Some(cluster) = start(false, &[]).await else { return };
    if !crate::target::certify(&cluster.data_dir()) {
        return skip("openssl");
    }
    let url = |user: &str, host: &str, query: &str| {
        parse(&format!("postgresql://{user}@{host}:{}/postgres?{query}", cluster.port()))
    };
    let live = url("postgres", "localhost", "sslmode=prefer");
    reads_none_yet(&live, &url("postgres", "localhost", "sslmode=require")).await;
    let admin = cluster.connect("postgres").await;
    if admin.batch_execute("alter system set ssl = on").await.is_err() {
        return skip("a PostgreSQL server built with TLS");
    }
    admin.batch_execute("create role secret login replication password 'x'").await.unwrap();
    let file = cluster.data_dir().join("pg_hba.conf");
    let admitted = "hostssl all secret all scram-sha-256\n".to_owned() + &fs::read_to_string(&file).unwrap();
    fs::write(&file, admitted).unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let required = url("postgres", "localhost", "sslmode=require");
    eventually("the server offers TLS", async || required.connect().await.is_ok()).await;

    let roots = cluster.data_dir().join("server.crt");
    let verified = format!("sslmode=verify-full&sslrootcert={}", roots.display());
    let encrypted = "select count(*) from pg_stat_replication join pg_stat_ssl using (pid) where ssl";
    for (user, host, query, wanted) in [
        ("postgres", "127.0.0.1", "sslmode=disable", 0),
        ("postgres", "127.0.0.1", "sslmode=prefer", 1),
        ("postgres", "127.0.0.1", "sslmode=require", 1),
        ("postgres", "localhost", verified.as_str(), 1),
        ("secret:x", "localhost", verified.as_str(), 1),
    ] {
        let db = url(user, host, query);
        let mut stream = Stream::temporary(&db).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        run(&live, "insert into t values (1)").await;
        assert_eq!(transactions(told(&mut stream, &live).await).len(), 1, "{query}");
        assert_eq!(number(&admin, encrypted).await, wanted, "{query}");
        drop(stream);
        eventually("it ends", async || number(&admin, "select count(*) from pg_stat_replication").await == 0)
            .await;
    }
    for (host, query) in [("127.0.0.1", verified.as_str()), ("localhost", "sslmode=verify-full")] {
        let refused = Stream::temporary(&url("postgres", host, query)).await;
        assert!(matches!(refused, Err(DbError::Tls(_))), "{query}: {refused:?}");
    }
}

/// While the server offers no TLS, whoever prefers it goes without, and whoever needs it does not go.
async fn reads_none_yet(prefers: &Database, requires: &Database) {
    run(prefers, "create table t (id int)").await;
    reads(prefers, prefers).await;
    let refused = Stream::temporary(requires).await;
    assert!(matches!(refused, Err(DbError::Tls(_))), "{refused:?}");
}

#[tokio::test]
async fn a_pooler_is_no_server() {
    let Some((cluster, _)) = fresh("capture_pooled").await else { return };
    for options in [StartupOptions::Refused, StartupOptions::Dropped] {
        let Some(pooler) = Pooler::start(cluster, options) else { return };
        let error = Stream::temporary(&parse(&pooler.url("capture_pooled"))).await.unwrap_err();
        assert!(matches!(error, DbError::Pooler { .. }), "{options:?}: {error}");
    }
}
