//! The processes of a release: who they are, who they are not, and what they say.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{assert_no_failures_but_of, assert_nothing_failed, live_stage_in_turn};
use piton_testkit::stage::{Change, Stage};
use rustix::process::Signal;
use serde_json::json;

/// Answers 200 to everything on a port, as another program of this machine would; the thread ends with the test's process.
fn stranger_on(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
        }
    });
}

/// The processes that the release which serves production has in its session or by its mark.
fn live_processes(stage: &Stage) -> Vec<piton_exec::marker::Marked> {
    let live = stage.status("production")["live"]["release"].as_str().unwrap().to_owned();
    piton_exec::marker::find("PITON_RELEASE", &live)
}

fn kill_all(processes: &[piton_exec::marker::Marked]) {
    for marked in processes {
        let pid = rustix::process::Pid::from_raw(marked.pid).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
}

fn kill_live_app(stage: &Stage) {
    kill_all(&live_processes(stage));
    stage.eventually("the app's end", || live_processes(stage).is_empty());
}

/// A file of a slot of production: `blue-….json`, or below its folder.
fn of_slot(stage: &Stage, slot: &str, is_file: bool) -> PathBuf {
    let slots = stage.root().join(".piton/environments/production/slots");
    let found = std::fs::read_dir(slots).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(slot);
    found.into_iter().find(|path| named(path) && path.is_file() == is_file).unwrap()
}

#[test]
fn every_program_that_ran_is_in_the_journal() {
    let Some(stage) = live_stage_in_turn() else { return };
    let events = stage.events("production");
    let of_kind = |kind: &str| -> Vec<(String, String, u64)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let found = events.iter().map(|event| &event["event"]).filter(|event| event["event"] == kind);
        let one = |event: &serde_json::Value| {
            let number = event["pid"].as_u64().or(event["code"].as_u64());
            (text(&event["step"]), text(&event["command"]), number.unwrap())
        };
        found.map(one).collect()
    };
    let ran = of_kind("ran");
    for (step, words) in
        [("backup", "pg_dump --format"), ("backup", "pg_restore --list"), ("prove", "pg_restore --dbname")]
    {
        let found = ran.iter().find(|(of, command, _)| of == step && command.contains(words));
        assert!(found.is_some_and(|(_, _, code)| *code == 0), "no {words} in {ran:?}");
    }
    let launched = of_kind("launched");
    let [(start, app, app_pid), (connect, proxy, proxy_pid)] = launched.as_slice() else {
        panic!("{launched:?}")
    };
    assert_eq!((start.as_str(), connect.as_str()), ("start", "start.proxy"));
    assert!(app.starts_with("PORT=") && proxy.contains(" proxy --state "), "{launched:?}");
    assert_eq!(stage.status("production")["proxy"]["pid"].as_u64(), Some(*proxy_pid));
    assert!(live_processes(&stage).iter().any(|marked| u64::from(marked.pid.unsigned_abs()) == *app_pid));
    let secret = &stage.settings().production.vars["SESSION_SECRET"];
    assert!(!format!("{ran:?}{launched:?}").contains(secret.as_str()));
    assert!(!format!("{ran:?}{launched:?}").contains("production-password"));
}

#[test]
fn a_stranger_that_took_the_port_gets_no_traffic() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[]);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done build:after")]).expect(137);
    let [_, _, green] = stage.settings().production.ports;
    stranger_on(green);
    let said = stage.piton(&["resume", "production"]).expect(3);
    said.says("the app ended before it was ready")
        .says(&format!("process {} (", std::process::id()))
        .says(&format!("listens on port {green}"));
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v1".into())));
}

#[test]
fn a_stranger_on_the_port_of_an_app_that_died_is_not_taken_for_it() {
    let Some(stage) = live_stage_in_turn() else { return };
    kill_live_app(&stage);
    let [_, blue, _] = stage.settings().production.ports;
    stranger_on(blue);
    assert!(stage.piton(&["status", "production"]).expect(0).stdout.contains("blue does not listen on port"));
    stage.piton(&["resume", "production"]).expect(1).says(&format!("listens on port {blue}"));
}

#[test]
fn an_app_may_listen_through_a_child() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let through_a_child = format!("sh -c '{} & wait'", stage.settings().command);
    stage.configure(|settings| settings.command = through_a_child);
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    stage.deploy("production");
    assert_nothing_failed(&stage, &stage.finish(load));
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v2".into())));
    assert!(!stage.piton(&["status", "production"]).expect(0).stdout.contains("does not listen"));
}

#[test]
fn an_app_that_ends_with_its_secrets_on_its_lips() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let url = stage.url("production").replace("production-password", "production%2Dpass!word");
    stage.configure(|settings| {
        settings.production.vars.insert("DATABASE_URL".into(), url.clone());
        settings.command = "sh -c 'echo token $SESSION_SECRET; echo on $DATABASE_URL; \
             echo as production\"-\"pass!word or production\"-\"pass%21word; exit 1'"
            .into();
    });
    stage.commit("v2", &[]);
    let secret = stage.settings().production.vars["SESSION_SECRET"].clone();
    let said = stage.piton(&["deploy", "production"]).expect(3);
    let said = said.says("token •••").says("on •••").says("as ••• or •••");
    let journal = stage.piton(&["log", "production", "--json"]).expect(0).stdout;
    for told in [&said.stderr, &journal] {
        assert!(!told.contains(&secret) && !told.contains(&url), "{told}");
        let spellings = ["production-pass!word", "production%2Dpass!word", "production-pass%21word"];
        assert!(!spellings.iter().any(|password| told.contains(password)), "{told}");
    }
}

/// A session of this user's that has nothing to do with Piton; it ends with the test.
struct Session(Child);

impl Session {
    fn start() -> Self {
        let mut command = Command::new("setsid");
        // A process group's leader would be forked by `setsid`, and the session had another number.
        let session = Self(command.args(["sleep", "600"]).spawn().unwrap());
        let begin = Instant::now();
        let is_leader = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", session.0.id())).unwrap();
            stat.rsplit(')').next().unwrap().split_whitespace().nth(3) == Some(&session.0.id().to_string())
        };
        while !is_leader() {
            assert!(begin.elapsed() < Duration::from_secs(10), "it leads no session");
        }
        session
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_session_that_came_to_the_number_of_a_dead_app_lives_on() {
    let Some(stage) = live_stage_in_turn() else { return };
    let record = of_slot(&stage, "blue", true);
    let mut leader: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    kill_live_app(&stage);
    let mut session = Session::start();
    leader["pid"] = json!(session.0.id());
    std::fs::write(&record, leader.to_string()).unwrap();
    stage.piton(&["resume", "production"]).expect(0).says("started again");
    assert!(session.0.try_wait().unwrap().is_none(), "another program's session was ended");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v1".into())));
}

#[test]
fn an_app_that_takes_long_to_start_again_keeps_its_lease() {
    let Some(stage) = live_stage_in_turn() else { return };
    let behaviour = of_slot(&stage, "blue", false).join("built.json");
    kill_live_app(&stage);
    let good = std::fs::read_to_string(&behaviour).unwrap();
    let mut never_ready: serde_json::Value = serde_json::from_str(&good).unwrap();
    never_ready["never_ready"] = json!(true);
    std::fs::write(&behaviour, never_ready.to_string()).unwrap();

    let resume = stage.spawn(&["resume", "production"], &[]);
    let reviving = |event: &serde_json::Value| event["event"]["event"] == "reviving";
    stage.eventually("the event before the start", || stage.events("production").iter().any(reviving));
    let journal = rusqlite::Connection::open(stage.root().join(".piton/journal.db")).unwrap();
    let beat = || {
        let read = journal.query_row("SELECT beat FROM leases", [], |row| row.get::<_, String>(0));
        read.unwrap()
    };
    let first = beat();
    stage.eventually("a beat", || beat() != first);
    stage.piton(&["resume", "production"]).expect(2).says("is being released by");

    resume.kill();
    kill_live_app(&stage);
    std::fs::write(&behaviour, good).unwrap();
    stage.piton(&["resume", "production"]).expect(0).says("blue on");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v1".into())));
    let events = stage.events("production");
    assert_eq!(events.last().unwrap()["event"]["event"], "revived");
}

#[test]
fn a_second_interrupt_ends_a_process_that_is_busy() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let (deploy, load) = crate::common::watched(&mut stage, &[]);
    // Whoever wants to append an event waits ten seconds for this.
    let journal = rusqlite::Connection::open(stage.root().join(".piton/journal.db")).unwrap();
    journal.busy_timeout(Duration::from_secs(5)).unwrap();
    journal.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begin = Instant::now();
    let stat = format!("/proc/{}/stat", deploy.id());
    let has_ended = || std::fs::read_to_string(&stat).unwrap().contains(") Z ");
    stage.eventually("its end", || {
        deploy.signal(Signal::INT);
        has_ended()
    });
    assert!(begin.elapsed() < Duration::from_secs(5), "it waited for the journal");
    assert_eq!(deploy.wait().code, 130);
    journal.execute_batch("ROLLBACK").unwrap();
    stage.piton(&["rollback", "production"]).expect(0);
    assert_nothing_failed(&stage, &stage.finish(load));
}

/// Sits on production's control socket and passes everything on; while `loses` is set, not the answer to an order that gives green
/// a share. The proxy obeys all the same.
struct Interceptor {
    loses: Arc<AtomicBool>,
}

impl Interceptor {
    /// The threads end with the test's process.
    fn on(stage: &Stage) -> Self {
        let socket = stage.root().join(".piton/environments/production/proxy/control.sock");
        let behind = socket.with_file_name("behind.sock");
        std::fs::rename(&socket, &behind).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let loses = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&loses);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (proxy, loses) = (UnixStream::connect(&behind).unwrap(), Arc::clone(&seen));
                std::thread::spawn(move || pass_on(&client, &proxy, &loses));
            }
        });
        Self { loses }
    }

    fn loses(&self, loses: bool) {
        self.loses.store(loses, Ordering::Relaxed);
    }
}

fn pass_on(mut client: &UnixStream, mut proxy: &UnixStream, loses: &AtomicBool) -> std::io::Result<()> {
    let (mut orders, mut answers) = (BufReader::new(client), BufReader::new(proxy));
    loop {
        let (mut order, mut answer) = (String::new(), String::new());
        if orders.read_line(&mut order)? == 0 {
            return Ok(());
        }
        proxy.write_all(order.as_bytes())?;
        answers.read_line(&mut answer)?;
        let gives = order.contains("set_weights") && !order.contains(r#""green":0"#);
        if gives && loses.load(Ordering::Relaxed) {
            // Until the test has seen somebody being sent there.
            while loses.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            return client.shutdown(Shutdown::Both);
        }
        client.write_all(answer.as_bytes())?;
    }
}

#[test]
fn an_order_whose_answer_is_lost_leaves_no_traffic_on_the_release() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.steps = vec!["50% for 1s", "100%"]);
    stage.commit("v2", &[]);
    let interceptor = Interceptor::on(&stage);
    interceptor.loses(true);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the proxy obeys", || load.snapshot().last_second.contains_key("v2"));
    interceptor.loses(false);
    deploy.wait().expect(4).says("the proxy does not answer").says("all traffic is on blue meanwhile");
    assert_eq!(stage.status("production")["proxy"]["weights"]["green"], 0);
    stage.piton(&["resume", "production"]).expect(0);
    assert_eq!(stage.status("production")["proxy"]["weights"]["green"], 10_000);
    assert_nothing_failed(&stage, &stage.finish(load));
}

/// A watch that could not go on has sent the traffic back: taken up again, it gives it to the release and judges from then on.
#[test]
fn a_watch_that_failed_is_taken_up_with_the_traffic_on_the_release() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.watch = "3s");
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "started watch:after")]).expect(137);
    // Nobody can take a note: the watch cannot begin.
    let journal = journal_without_room_for(&stage, "noted");
    let said = stage.piton(&["resume", "production"]).expect(4);
    said.says("the journal could not be written").says("all traffic is on blue meanwhile");
    assert_eq!(stage.status("production")["proxy"]["weights"]["green"], 0);
    journal.execute_batch("DROP TRIGGER full").unwrap();
    let answers = load.snapshot().requests;
    stage.eventually("answers of blue alone", || load.snapshot().requests > answers + 100);
    let began = Instant::now();
    stage.piton(&["resume", "production"]).expect(0);
    assert!(began.elapsed() > Duration::from_secs(3), "what passed without traffic was no watch");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v2".into())));
    assert_nothing_failed(&stage, &stage.finish(load));
}

/// Lets nobody append events of a kind until the trigger is dropped, as a full disk would.
fn journal_without_room_for(stage: &Stage, kind: &str) -> rusqlite::Connection {
    let journal = rusqlite::Connection::open(stage.root().join(".piton/journal.db")).unwrap();
    let full = format!(
        "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = '{kind}'
         BEGIN SELECT RAISE(FAIL, 'full'); END"
    );
    journal.execute_batch(&full).unwrap();
    journal
}

#[test]
fn a_verdict_that_could_not_be_written_is_not_forgotten() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.steps = vec!["50% for 20s", "100%"]);
    // Every answer: a good one that was under way when it was judged would speak for it.
    stage.commit("v2", &[Change::Behaviour(|app| app.fails = 1.0)]);
    let load = stage.load("production").start().unwrap();
    let journal = journal_without_room_for(&stage, "failed");
    stage.piton(&["deploy", "production"]).expect(1).says("the journal");
    assert_no_failures_but_of(&stage.finish(load), "v2");
    journal.execute_batch("DROP TRIGGER full").unwrap();
    let load = stage.load("production").start().unwrap();
    stage.piton(&["resume", "production"]).expect(3).says("the gate sends it back");
    let report = stage.finish(load);
    assert_nothing_failed(&stage, &report);
    assert!(!report.releases.contains_key("v2"), "judged already: {:?}", report.releases);
}

#[test]
fn a_watch_that_failed_sends_nobody_to_an_app_that_has_died_since() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| (settings.watch, settings.ready_within) = ("10m", "3s"));
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "started watch:after")]).expect(137);
    let journal = journal_without_room_for(&stage, "noted");
    stage.piton(&["resume", "production"]).expect(4).says("all traffic is on blue meanwhile");
    journal.execute_batch("DROP TRIGGER full").unwrap();
    let release = stage.status("production")["release"]["release"].as_str().unwrap().to_owned();
    kill_all(&piton_exec::marker::find("PITON_RELEASE", &release));
    // Nor can it be started again, or copied anew.
    std::fs::remove_file(of_slot(&stage, "green", false).join("built.json")).unwrap();
    let commit = stage.git(&["rev-parse", "HEAD"]);
    std::fs::remove_file(stage.root().join(".piton/artifacts").join(commit).join("built.json")).unwrap();
    let said = stage.piton(&["resume", "production"]).expect(3);
    said.says("cannot be started again").says("does not run");
    assert_nothing_failed(&stage, &stage.finish(load));
}

#[test]
fn a_release_is_carried_on_by_itself() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let (deploy, load) = crate::common::watched(&mut stage, &[]);
    deploy.kill();
    stage.piton(&["resume", "production", "--detach"]).expect(0).says("piton watch production follows it");
    stage.piton(&["resume", "production"]).expect(2).says("is being released by");
    stage.piton(&["continue", "production", "--now"]).expect(0);
    stage.eventually("its end", || stage.status("production")["release"]["outcome"] == "succeeded");
    stage
        .piton(&["resume", "production", "--detach"])
        .expect(2)
        .says("no release of production is under way");
    assert_nothing_failed(&stage, &stage.finish(load));
}
