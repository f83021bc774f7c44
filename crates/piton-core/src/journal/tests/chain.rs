//! Appending, reading back, and what somebody who changes the file cannot hide.

use super::*;
use crate::journal::{JournalError, Request};

#[test]
fn what_is_appended_is_read_back_by_another_connection() {
    let mut opened = Opened::new();
    let lease = opened.lease();
    let mut times = Vec::new();
    for event in five_events() {
        times.push(opened.journal.append(&lease, "R1", &event).unwrap());
    }
    let entries = Journal::open(&opened.path()).unwrap().entries("R1", 0).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(entries.iter().map(|entry| entry.at).collect::<Vec<_>>(), times);
    for (entry, event) in entries.iter().zip(five_events()) {
        assert_eq!(entry.release, "R1");
        assert_eq!(serde_json::to_value(&entry.event).unwrap(), serde_json::to_value(&event).unwrap());
    }
    let later: Vec<i64> = opened.journal.entries("R1", 3).unwrap().iter().map(|entry| entry.seq).collect();
    assert_eq!(later, [4, 5]);
    assert_eq!(opened.journal.verify().unwrap(), 5);
}

#[test]
fn a_release_is_found_by_the_end_or_the_beginning_of_its_identifier() {
    let mut opened = Opened::new();
    let lease = opened.lease();
    for id in ["01AB2", "01AC3"] {
        let event = Event::Created { plan: Box::new(plan(id, 1)), by: Operator::this_process() };
        opened.journal.append(&lease, id, &event).unwrap();
    }
    for part in ["01ab", "AB2", "01AB2", "b2"] {
        assert_eq!(opened.journal.find(part).unwrap(), "01AB2");
    }
    for wrong in ["01A", "02", "AB2X", ""] {
        assert!(matches!(opened.journal.find(wrong), Err(JournalError::NoRelease(name)) if name == wrong));
    }
    let all = opened.journal.releases(Some("production")).unwrap();
    assert_eq!(all.iter().map(|state| state.plan.id.as_str()).collect::<Vec<_>>(), ["01AB2", "01AC3"]);
    assert!(opened.journal.releases(Some("staging")).unwrap().is_empty());
    assert!(matches!(opened.journal.state("01"), Err(JournalError::NoRelease(_))));
}

#[test]
fn sqlite_itself_refuses_to_change_or_remove_an_event() {
    let mut opened = Opened::new();
    opened.five_events();
    for change in ["UPDATE events SET at = at WHERE seq = 2", "DELETE FROM events WHERE seq = 5"] {
        let error = opened.raw().execute_batch(change).unwrap_err();
        assert!(error.to_string().contains("append-only"), "{change}: {error}");
    }
    // REPLACE deletes without firing delete triggers; the chain finds what comes in.
    opened
        .raw()
        .execute_batch("INSERT OR REPLACE INTO events SELECT seq, release, at, token, kind, '{}', hash FROM events WHERE seq = 4")
        .unwrap();
    assert_damaged(&opened, 4);
}

#[test]
fn the_chain_names_the_first_event_that_was_tampered_with() {
    for (tampering, seq) in [
        ("UPDATE events SET body = replace(body, '7', '8') WHERE seq = 3", 3),
        ("UPDATE events SET at = '2020-01-01T00:00:00Z' WHERE seq = 4", 4),
        ("UPDATE events SET release = 'R2' WHERE seq = 2", 2),
        ("UPDATE events SET token = token + 1 WHERE seq = 5", 5),
        ("UPDATE events SET kind = 'noted' WHERE seq = 1", 1),
        ("UPDATE events SET hash = zeroblob(32) WHERE seq = 2", 2),
        // Removed: with the gap left, and with the gap closed.
        ("DELETE FROM events WHERE seq = 3", 3),
        ("DELETE FROM events WHERE seq = 3; UPDATE events SET seq = seq - 1 WHERE seq > 3", 3),
        ("DELETE FROM events WHERE seq = 1", 1),
        // Inserted: a copy of another event between two.
        (
            "UPDATE events SET seq = -seq WHERE seq > 2; UPDATE events SET seq = 1 - seq WHERE seq < 0;
             INSERT INTO events SELECT 3, release, at, token, kind, body, hash FROM events WHERE seq = 2",
            3,
        ),
        // Swapped: two whole rows, and only what they say.
        (
            "UPDATE events SET seq = -1 WHERE seq = 2; UPDATE events SET seq = 2 WHERE seq = 4;
             UPDATE events SET seq = 4 WHERE seq = -1",
            2,
        ),
        (
            "UPDATE events SET body = (SELECT body FROM events AS other WHERE other.seq = 8 - events.seq)
             WHERE seq IN (3, 5)",
            3,
        ),
    ] {
        let mut opened = Opened::new();
        opened.five_events();
        assert_eq!(opened.journal.verify().unwrap(), 5);
        opened
            .raw()
            .execute_batch(&format!("DROP TRIGGER events_stay; DROP TRIGGER events_remain; {tampering}"))
            .unwrap();
        assert!(
            matches!(opened.journal.verify(), Err(JournalError::Damaged { seq: found, .. }) if found == seq),
            "{tampering}: {:?}",
            opened.journal.verify()
        );
    }
}

#[test]
fn the_chain_goes_on_after_the_file_was_closed() {
    let mut opened = Opened::new();
    let lease = opened.five_events();
    let path = opened.path();
    let Opened { dir, journal } = opened;
    drop(journal);
    let mut again = Journal::open(&path).unwrap();
    again.append(&lease, "R1", &started(2, 1)).unwrap();
    assert_eq!(again.verify().unwrap(), 6);
    drop(dir);
}

#[test]
fn an_event_that_cannot_be_read_is_named() {
    let mut opened = Opened::new();
    opened.five_events();
    opened
        .raw()
        .execute_batch(
            r#"DROP TRIGGER events_stay; UPDATE events SET body = '{"event":"vanished"}' WHERE seq = 4"#,
        )
        .unwrap();
    let error = opened.journal.entries("R1", 0).unwrap_err();
    assert!(matches!(&error, JournalError::Damaged { seq: 4, why } if why.contains("vanished")), "{error}");
}

#[test]
fn the_file_of_a_newer_piton_is_refused_and_left_as_it_is() {
    let opened = Opened::new();
    let path = opened.path();
    opened.raw().pragma_update(None, "user_version", 2).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 2, .. }));
    assert!(error.to_string().contains("has format 2; this Piton knows 1"), "{error}");
    let version: i64 = opened.raw().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
}

#[test]
fn a_file_that_is_no_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    std::fs::write(&path, "not a database, but long enough to look like one, with some more words in it")
        .unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Sqlite { .. })));
    let blocked = dir.path().join("journal.db/journal.db");
    assert!(matches!(Journal::open(&blocked), Err(JournalError::Folder(_))));
}

#[test]
fn every_commit_is_synchronous() {
    let opened = Opened::new();
    let setting = |name: &str| -> String {
        opened
            .journal
            .db
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(setting("synchronous"), "Integer(2)", "2 is FULL");
    assert_eq!(setting("journal_mode"), "Text(\"wal\")");
}

#[test]
fn two_connections_append_to_one_chain() {
    let mut opened = Opened::new();
    let lease = opened.lease();
    let environments = ["R1", "R2"];
    for release in environments {
        opened.journal.append(&lease, release, &created(1)).unwrap();
    }
    std::thread::scope(|scope| {
        for release in environments {
            let mut journal = opened.journal.reopen().unwrap();
            let lease = &lease;
            scope.spawn(move || {
                for number in 0..100 {
                    let event = Event::Left { why: number.to_string() };
                    journal.append(lease, release, &event).unwrap();
                }
            });
        }
    });
    assert_eq!(opened.journal.verify().unwrap(), 202);
    for release in environments {
        let whys: Vec<String> = opened
            .journal
            .entries(release, 0)
            .unwrap()
            .into_iter()
            .filter_map(|entry| match entry.event {
                Event::Left { why } => Some(why),
                _ => None,
            })
            .collect();
        assert_eq!(whys, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn requests_are_taken_up_once_in_their_order() {
    let mut opened = Opened::new();
    let asker = Operator { user: "ada".into(), ..Operator::this_process() };
    let mut other = opened.journal.reopen().unwrap();
    other.ask("R1", Request::Hold, &asker).unwrap();
    other.ask("R2", Request::Abort, &asker).unwrap();
    other.ask("R1", Request::Rollback { database: true, undecided: false }, &asker).unwrap();
    let pending = opened.journal.pending("R1").unwrap();
    assert_eq!(
        pending.iter().map(|pending| pending.request).collect::<Vec<_>>(),
        [Request::Hold, Request::Rollback { database: true, undecided: false }]
    );
    assert!(pending.iter().all(|pending| pending.by == asker));
    opened.journal.taken(pending[0].id).unwrap();
    let left = opened.journal.pending("R1").unwrap();
    assert_eq!(left.iter().map(|pending| pending.id).collect::<Vec<_>>(), [pending[1].id]);
    assert_eq!(opened.journal.pending("R2").unwrap().len(), 1);
    assert_eq!(opened.journal.pending("R3").unwrap().len(), 0);
}

fn assert_damaged(opened: &Opened, seq: i64) {
    let verified = opened.journal.verify();
    assert!(
        matches!(verified, Err(JournalError::Damaged { seq: found, .. }) if found == seq),
        "{verified:?}"
    );
}
