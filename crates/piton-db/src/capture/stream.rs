use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, BufMut as _, BytesMut};
use postgres_protocol::message::backend::{COPY_DATA_TAG, COPY_DONE_TAG, Message as Backend};
use postgres_protocol::message::frontend;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::error::SqlState;

use super::decoded::{Decoder, Said};
use super::wire::{Refusal, Wire, whole};
use super::{Change, Lsn};
use crate::target::own_value;
use crate::{Database, DbError, quote};

/// How often the server is told how far we are, and asked how far it is.
///
/// It gives up on a reader that is silent for `wal_sender_timeout`, which its session sets.
const BEAT: Duration = Duration::from_secs(2);

/// How long a slot may still be in use by a reader that has just died.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);

/// How many pieces may have been read ahead of whoever takes them; a piece has the changes of some 64 KB of text, or one that is larger.
const AHEAD: usize = 16;

/// How long to let more come after little did, unless somebody waits for an answer.
///
/// The server sends each change for itself. To be woken for each would cost more of the processor than the change does.
const GATHER: Duration = Duration::from_millis(10);

/// What is little, in bytes.
const LITTLE: usize = 16 * 1024;

/// How long the good-bye of a stream that was let go may take.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// The options of `test_decoding`: a transaction is known by its number, and one that wrote nothing here is told as well.
const OPTIONS: &str = r#"("include-xids" '1', "skip-empty-xacts" '0')"#;

/// The writes of one database in the order of their commits, as they come.
///
/// It reads in a task of its own, some way ahead of whoever takes the messages, and answers the server also while nobody takes
/// any. Dropping it ends the session, after what was confirmed has been told.
///
/// No change of a sequence, of a large object or of an unlogged table is in it. Of a materialized view there may be some rows, which
/// say nothing: those that it was made with, before PostgreSQL 18, and those that `REFRESH ... CONCURRENTLY` changed.
#[derive(Debug)]
pub struct Stream {
    pieces: mpsc::Receiver<Piece>,
    piece: std::vec::IntoIter<Message>,
    orders: watch::Sender<Orders>,
}

/// Messages that came together, or why there are no more.
type Piece = Result<Vec<Message>, DbError>;

/// What comes out of a [`Stream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A committed transaction begins; its changes follow, up to its [`Message::Commit`].
    Begin {
        /// The lower 32 bits of its number; that of the whole, where savepoints had their own.
        xid: u32,
        /// Whether it is known for the migration's. The log does not tell.
        own: bool,
    },
    /// A change of this transaction.
    Change {
        /// Where the change stands in the log.
        lsn: Lsn,
        /// The change.
        change: Change,
    },
    /// The transaction is complete.
    Commit {
        /// The lower 32 bits of its number.
        xid: u32,
        /// Where its commit ends in the log: a stream that is opened from here goes on with the next one.
        end: Lsn,
    },
    /// Every transaction whose commit ends at or before this place has been told.
    UpTo(Lsn),
}

/// What whoever takes the messages wants told to the server.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    confirmed: Lsn,
    asked: u64,
}

impl Stream {
    /// Reads a slot on, with the transactions whose commit ends behind `from`, and behind what was confirmed before.
    ///
    /// While a reader that has just died still has the slot, it waits, up to ten seconds.
    ///
    /// # Errors
    /// [`DbError::Replication`] when the slot is not there, is in use or has lost what it should have kept; as
    /// [`Database::connect`], but with [`DbError::Replication`] in place of [`DbError::Connect`].
    pub async fn open(database: &Database, slot: &str, from: Lsn) -> Result<Self, DbError> {
        let wire = Wire::open(database).await?;
        Self::start(database, wire, slot, from).await
    }

    /// Reads what is committed from now on, by a slot that goes with the session.
    ///
    /// It waits for every transaction that is under way and has written. Nothing that it has told is told again.
    ///
    /// # Errors
    /// As [`Stream::open`]; [`DbError::Replication`] when no slot can be made.
    pub async fn temporary(database: &Database) -> Result<Self, DbError> {
        let mut wire = Wire::open(database).await?;
        let slot = format!("piton_t_{}", own_value().replace('.', "_"));
        let create = format!(
            "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT",
            quote::ident(&slot)
        );
        let doing = || format!("make a replication slot on {database}");
        let made = wire.query(&create).await.map_err(|why| why.while_doing(doing()))?;
        let place = made.first().and_then(|row| row.get(1)?.as_deref()?.parse().ok());
        let Some(from) = place else {
            return Err(Refusal::new("the server does not say where it begins").while_doing(doing()));
        };
        Self::start(database, wire, &slot, from).await
    }

    async fn start(database: &Database, mut wire: Wire, slot: &str, from: Lsn) -> Result<Self, DbError> {
        let start = format!("START_REPLICATION SLOT {} LOGICAL {from} {OPTIONS}", quote::ident(slot));
        let begun = Instant::now();
        loop {
            match wire.copy_both(&start).await {
                Ok(()) => break,
                Err(why) if why.code == Some(SqlState::OBJECT_IN_USE) && begun.elapsed() < LET_GO_WITHIN => {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(why) => return Err(why.while_doing(format!("read the replication slot {slot}"))),
            }
        }
        let (sender, pieces) = mpsc::channel(AHEAD);
        let (orders, obeyed) = watch::channel(Orders::default());
        let reader = Reader {
            wire,
            decoder: Decoder::default(),
            received: Lsn::default(),
            told: Orders::default(),
            wanted: false,
            asked: false,
            orders: obeyed,
        };
        tokio::spawn(reader.run(sender, format!("read the log of {database}")));
        Ok(Self { pieces, piece: Vec::new().into_iter(), orders })
    }

    /// Waits for the next message; given up in the middle, none is lost.
    ///
    /// # Errors
    /// [`DbError::Replication`] when the session ends, for whatever reason: what was not confirmed comes again from another one.
    pub async fn next(&mut self) -> Result<Message, DbError> {
        loop {
            if let Some(message) = self.piece.next() {
                return Ok(message);
            }
            match self.pieces.recv().await {
                Some(piece) => self.piece = piece?.into_iter(),
                None => return Err(Refusal::new("it has ended before").while_doing("read the log")),
            }
        }
    }

    /// Lets the server forget what was committed up to this place, which is the end of a transaction that is kept elsewhere now, or
    /// the place of an [`Message::UpTo`] after it: the server keeps the log of its other databases for a slot as well.
    ///
    /// It is told within two seconds, or when the stream is dropped. The server may have forgotten that after a crash; whoever may
    /// take nothing twice opens the next stream from here.
    pub fn confirm(&mut self, upto: Lsn) {
        self.orders.send_if_modified(|orders| {
            orders.confirmed = orders.confirmed.max(upto);
            // Nobody waits for it, and after each small transaction it would be as much traffic as the log is.
            false
        });
    }

    /// Asks for a [`Message::UpTo`] at once.
    ///
    /// The server sends one by itself whenever it has told all that there is, and at least every two seconds; so whoever waits for
    /// a place asks once.
    pub fn ask(&mut self) {
        self.orders.send_modify(|orders| orders.asked += 1);
    }
}

/// Reads the log and answers the server.
struct Reader {
    wire: Wire,
    decoder: Decoder,
    /// How far the server has sent.
    received: Lsn,
    /// What the server was told of the orders.
    told: Orders,
    /// Whether the server wants an answer.
    wanted: bool,
    /// Whether somebody here waits for one.
    asked: bool,
    orders: watch::Receiver<Orders>,
}

impl Reader {
    async fn run(mut self, pieces: mpsc::Sender<Piece>, doing: String) {
        if let Err(why) = self.read(&pieces).await {
            // Whoever took the messages may be gone.
            let _ = pieces.send(Err(why.while_doing(doing))).await;
        }
    }

    /// Reads until the server ends or nobody wants more.
    async fn read(&mut self, pieces: &mpsc::Sender<Piece>) -> Result<(), Refusal> {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut piece, mut ended, mut gathers) = (Vec::new(), None, false);
        loop {
            tokio::select! {
                // Answers first: with much to read they would never have their turn.
                biased;
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        self.say_good_bye().await;
                        return Ok(());
                    }
                    self.tell(false).await;
                    gathers = false;
                }
                _ = beat.tick() => self.tell(true).await,
                room = pieces.reserve(), if !piece.is_empty() => {
                    let Ok(room) = room else {
                        self.say_good_bye().await;
                        return Ok(());
                    };
                    room.send(Ok(std::mem::take(&mut piece)));
                    if let Some(why) = ended.take() {
                        return Err(why);
                    }
                }
                () = sleep(GATHER), if gathers => gathers = false,
                filled = self.wire.fill(), if piece.is_empty() && !gathers => {
                    let little = filled? < LITTLE;
                    // What came before a fault is whole.
                    ended = self.decode(&mut piece).err();
                    gathers = little && !self.asked;
                    if self.wanted {
                        self.wanted = false;
                        self.tell(false).await;
                    }
                    if piece.is_empty() && let Some(why) = ended.take() {
                        return Err(why);
                    }
                }
            }
        }
    }

    /// Takes apart what has come.
    fn decode(&mut self, piece: &mut Vec<Message>) -> Result<(), Refusal> {
        while let Some(length) = whole(&self.wire.read)? {
            if self.wire.read[0] != COPY_DATA_TAG {
                match Backend::parse(&mut self.wire.read)? {
                    Some(Backend::ErrorResponse(body)) => return Err(Refusal::of(&body)),
                    Some(Backend::NoticeResponse(_) | Backend::ParameterStatus(_)) => continue,
                    _ => return Err(Refusal::new("the server has ended the log")),
                }
            }
            let told =
                copied(&self.wire.read[5..length]).ok_or_else(|| Refusal::new("a message is cut off"))?;
            match told {
                Copied::Log { at, text } => {
                    self.received = self.received.max(at);
                    match self.decoder.read(text).map_err(Refusal::new)? {
                        Said::Begin(xid) => piece.push(Message::Begin { xid, own: false }),
                        Said::Change(change) => piece.push(Message::Change { lsn: at, change }),
                        Said::Commit(xid) => piece.push(Message::Commit { xid, end: at }),
                        Said::Nothing => {}
                    }
                }
                Copied::Place { upto, wants_answer } => {
                    self.received = self.received.max(upto);
                    self.wanted |= wants_answer;
                    self.asked = false;
                    piece.push(Message::UpTo(upto));
                }
            }
            self.wire.read.advance(length);
        }
        Ok(())
    }

    /// Tells the server how far we are, and asks how far it is, when that is wanted.
    ///
    /// That something can be forgotten is told only when it is news. Otherwise that field says nothing: a server that stops waits
    /// until all that it sent was kept, or received by a reader that keeps nothing; and it would take a reader that keeps
    /// something for a standby that commits can wait for.
    async fn tell(&mut self, ask: bool) {
        let orders = *self.orders.borrow_and_update();
        let mut out = BytesMut::new();
        if orders.confirmed > self.told.confirmed {
            put_status(&mut out, self.received.max(orders.confirmed), orders.confirmed, false);
        }
        self.asked |= orders.asked > self.told.asked;
        put_status(&mut out, self.received, Lsn::default(), ask || self.asked);
        self.told = orders;
        // Where it fails the other direction says why.
        let _ = self.wire.write(&out).await;
    }

    /// Ends the session when the server has heard what was confirmed, or does not answer.
    async fn say_good_bye(&mut self) {
        let _ = timeout(GOOD_BYE, self.end()).await;
    }

    async fn end(&mut self) -> Result<(), Refusal> {
        self.tell(false).await;
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        self.wire.write(&out).await?;
        // A connection that is closed with something unread is reset, and the server could end before it has read everything.
        loop {
            while let Some(length) = whole(&self.wire.read)? {
                if self.wire.read[0] == COPY_DONE_TAG {
                    out.clear();
                    frontend::terminate(&mut out);
                    return self.wire.write(&out).await;
                }
                self.wire.read.advance(length);
            }
            self.wire.fill().await?;
        }
    }
}

/// A message within the copy.
enum Copied<'a> {
    Log { at: Lsn, text: &'a [u8] },
    Place { upto: Lsn, wants_answer: bool },
}

fn copied(mut data: &[u8]) -> Option<Copied<'_>> {
    match data.try_get_u8().ok()? {
        b'w' => {
            let at = Lsn(data.try_get_u64().ok()?);
            // The end of the log and the time of sending.
            Some(Copied::Log { at, text: data.get(16..)? })
        }
        b'k' => {
            let upto = Lsn(data.try_get_u64().ok()?);
            Some(Copied::Place { upto, wants_answer: *data.get(8)? == 1 })
        }
        _ => None,
    }
}

fn put_status(out: &mut BytesMut, received: Lsn, kept: Lsn, ask: bool) {
    /// From 1970 to 2000, in seconds.
    const EPOCH: u64 = 946_684_800;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = now.saturating_sub(Duration::from_secs(EPOCH)).as_micros();
    out.put_u8(COPY_DATA_TAG);
    out.put_u32(38);
    out.put_u8(b'r');
    for place in [received, kept, kept] {
        out.put_u64(place.0);
    }
    out.put_u64(u64::try_from(micros).unwrap_or(0));
    out.put_u8(u8::from(ask));
}
