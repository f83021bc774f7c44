use std::collections::VecDeque;
use std::pin::pin;

use super::HELD_BYTES;
use crate::DbError;
use crate::capture::{Lsn, Message, Reading};

/// How many messages may have been read before somebody takes them.
const MOST: usize = 50_000;

/// The writes of a live database, read on while what was read before is written.
#[derive(Debug)]
pub(super) struct Ahead {
    reading: Reading,
    messages: VecDeque<Message>,
    bytes: usize,
    /// Why it ended, behind the messages.
    ended: Option<DbError>,
}

impl Ahead {
    pub(super) fn new(reading: Reading) -> Self {
        Self { reading, messages: VecDeque::new(), bytes: 0, ended: None }
    }

    /// Waits for the next message, as [`Reading::next`].
    pub(super) async fn next(&mut self) -> Result<Message, DbError> {
        match (self.messages.pop_front(), self.ended.take()) {
            (Some(message), ended) => {
                self.ended = ended;
                self.bytes -= size(&message);
                Ok(message)
            }
            (None, Some(ended)) => Err(ended),
            (None, None) => self.reading.next().await,
        }
    }

    /// Reads until the work is done.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                message = self.reading.next(), if self.has_room() => match message {
                    Ok(message) => {
                        self.bytes += size(&message);
                        self.messages.push_back(message);
                    }
                    Err(error) => self.ended = Some(error),
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        self.ended.is_none() && self.messages.len() < MOST && self.bytes < HELD_BYTES
    }

    pub(super) fn confirm(&mut self, upto: Lsn) {
        self.reading.confirm(upto);
    }

    pub(super) fn ask(&mut self) {
        self.reading.ask();
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Change { change, .. } => change.size(),
        _ => 0,
    }
}
