//! The throw-away clusters against a real server.

use std::process::{Command, Stdio};

use piton_testkit::postgres::{Cluster, Options, StopMode};

#[tokio::test]
async fn a_cluster_survives_a_crash_and_leaves_nothing_behind() {
    let Some(cluster) = Cluster::start_with(Options {
        fsync: true,
        settings: vec![("work_mem", "9MB".into())],
        ..Options::default()
    }) else {
        return;
    };
    cluster.create_database("Über \"one\"").await;
    let row =
        cluster.connect("postgres").await.query_one("select current_setting('work_mem')", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "9MB");
    cluster.stop(StopMode::Immediate).unwrap();
    cluster.start_again().unwrap();
    let client = cluster.connect("postgres").await;
    let row =
        client.query_one("select count(*) from pg_database where datname like '%one%'", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let (dir, port) = (cluster.socket_dir().to_owned(), cluster.port());
    drop(cluster);
    assert!(!dir.exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// Not a test of its own: the process that the next test kills.
#[test]
fn victim() {
    if std::env::var_os("PITON_TESTKIT_VICTIM").is_none() {
        return;
    }
    let cluster = Cluster::start().unwrap();
    println!("victim {} {}", cluster.port(), cluster.socket_dir().display());
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn a_killed_test_process_takes_its_server_along() {
    use std::io::{BufRead, BufReader};
    if piton_testkit::postgres::find_bin().is_none() {
        piton_testkit::postgres::skip("postgresql");
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env("PITON_TESTKIT_VICTIM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line =
        lines.map(Result::unwrap).find_map(|l| l.split_once("victim ").map(|(_, l)| l.to_owned())).unwrap();
    let (port, dir) = line.split_once(' ').unwrap();
    let port: u16 = port.parse().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    victim.kill().unwrap();
    victim.wait().unwrap();
    piton_testkit::postgres::eventually("server and folder gone", async || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && !std::path::Path::new(dir).exists()
    })
    .await;
}
