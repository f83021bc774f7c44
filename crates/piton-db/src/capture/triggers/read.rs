use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use tokio::sync::{mpsc, watch};
use tokio_postgres::{Client, Row};

use super::bound::{self, Tender};
use super::composite;
use super::install::session;
use super::order::{Step, made};
use crate::capture::{Change, Column, Lsn, Message, Name, Snapshot, Tuple, Value};
use crate::error::Doing as _;
use crate::{Database, DbError, Session};

/// How many pieces may have been read ahead of whoever takes them.
const AHEAD: usize = 16;

/// How many messages make a piece.
const PIECE: usize = 500;

/// How many bytes of rows are enough for one, however few messages they are.
const PIECE_BYTES: usize = 4 << 20;

/// How often it is looked for another window, when nobody asks.
const LOOK: Duration = Duration::from_millis(250);

/// How many changes of a transaction are held to put them in order.
const HELD: usize = 500_000;

/// How many bytes of them.
const HELD_BYTES: usize = 256 << 20;

/// The writes of one database as triggers have noted them, each transaction as a whole, and none before one that it waited for.
///
/// It reads in a task of its own, some way ahead of whoever takes the messages, and removes what was confirmed. Dropping it ends both.
#[derive(Debug)]
pub struct Store {
    pieces: mpsc::Receiver<Piece>,
    piece: std::vec::IntoIter<Message>,
    confirmed: watch::Sender<i64>,
    asked: Arc<tokio::sync::Notify>,
}

type Piece = Result<Vec<Message>, DbError>;

/// Returns a place that no commit before this call lies behind, and that a store gets to: it makes a window.
///
/// # Errors
/// [`DbError::Replay`] when not everything was noted; or when the server cannot be asked.
pub async fn now(client: &Client) -> Result<Lsn, DbError> {
    let doing = || "divide the writes that were noted".to_owned();
    // One after the other, so that a later number has a later snapshot: each statement takes its own.
    let made = client.batch_execute("begin; lock table piton_capture.\"window\" in exclusive mode").await;
    let number = match made {
        Ok(()) => client
            .query_one(
                "insert into piton_capture.\"window\"
                 select max(number) + 1, pg_catalog.pg_current_snapshot() from piton_capture.\"window\" returning number",
                &[],
            )
            .await
            .doing(doing),
        Err(error) => Err(error).doing(doing),
    };
    let end = if number.is_ok() { "commit" } else { "rollback" };
    client.batch_execute(end).await.doing(doing)?;
    // Looked at after the snapshot: what was noted at this moment was noted when it was taken.
    if let Some(why) = bound::of(client).await?.lost() {
        return Err(DbError::Replay(why.to_owned()));
    }
    Ok(Place { window: number?.get(0), told: u32::MAX }.into())
}

/// A window, and how many of its transactions were told.
#[derive(Clone, Copy, Debug)]
struct Place {
    window: i64,
    told: u32,
}

impl From<Place> for Lsn {
    fn from(place: Place) -> Self {
        Self(place.window.unsigned_abs() << 32 | u64::from(place.told))
    }
}

impl From<Lsn> for Place {
    fn from(Lsn(at): Lsn) -> Self {
        match at {
            // The first window is what was written before all tables were noted.
            0 => Self { window: 1, told: u32::MAX },
            _ => Self { window: (at >> 32) as i64, told: at as u32 },
        }
    }
}

impl Store {
    /// Reads on from a place that was told, or from the first change, where it is 0.
    ///
    /// # Errors
    /// [`DbError::Replay`] when what follows is not there any more, or not every table's writes are noted; or when the server cannot be
    /// asked.
    pub async fn open(database: &Database, from: Lsn) -> Result<Self, DbError> {
        let client = session(database).await?;
        client
            // The planner knows nothing of how much a window holds: with one of minutes it would look through all of it for each row.
            .batch_execute("set enable_nestloop = off")
            .await
            .doing(|| "prepare to read the writes that were noted".into())?;
        whole(&client).await?;
        let tender = Tender::open(database).await?;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let (confirmed, told) = watch::channel(0);
        let asked = Arc::new(tokio::sync::Notify::new());
        let reader = Reader { client, layouts: HashMap::new(), piece: Vec::new(), bytes: 0, sender };
        tokio::spawn(reader.run(from.into(), asked.clone()));
        tokio::spawn(tender.run(told));
        Ok(Self { pieces, piece: Vec::new().into_iter(), confirmed, asked })
    }

    /// Waits for the next message; given up in the middle, none is lost.
    ///
    /// # Errors
    /// [`DbError::Replay`] when something was not noted; or when the session ends.
    pub async fn next(&mut self) -> Result<Message, DbError> {
        loop {
            if let Some(message) = self.piece.next() {
                return Ok(message);
            }
            match self.pieces.recv().await {
                Some(piece) => self.piece = piece?.into_iter(),
                None => return Err(DbError::Replay("the reading of the writes has ended before".into())),
            }
        }
    }

    /// Lets what was told up to this place be removed, some time later.
    pub fn confirm(&mut self, upto: Lsn) {
        let place = Place::from(upto);
        // The last one whole is what the next is told from.
        let window = if place.told == u32::MAX { place.window } else { place.window - 1 };
        self.confirmed.send_if_modified(|confirmed| {
            *confirmed = window.max(*confirmed);
            false
        });
    }

    /// Has it looked for another window at once.
    pub fn ask(&mut self) {
        self.asked.notify_one();
    }
}

/// Looks whether the writes to every table are noted.
async fn whole(client: &Client) -> Result<(), DbError> {
    let rows = client
        .query(
            "select u::regclass::text from piton_capture.unattached() u
             union all
             select 'event trigger ' || name from (values ('piton_capture_moves'), ('piton_capture_drops')) w(name)
             where not exists (select from pg_catalog.pg_event_trigger where evtname = name and evtenabled = 'A')",
            &[],
        )
        .await
        .doing(|| "see whether every table's writes are noted".into())?;
    match rows.first() {
        None => Ok(()),
        Some(row) => Err(DbError::Replay(format!(
            "somebody has taken a trigger of Piton's from {}",
            row.get::<_, &str>(0)
        ))),
    }
}

/// How a table's rows are written.
#[derive(Debug)]
struct Layout {
    name: Arc<Name>,
    columns: Arc<[Column]>,
    /// The columns that tell a row from all others, in the table's order; `None` for all.
    identity: Option<(Vec<usize>, Arc<[Column]>)>,
    /// The columns that are true or false.
    bools: Vec<usize>,
}

impl Layout {
    fn of(row: &Row) -> Self {
        let names: Vec<String> = row.get(3);
        let types: Vec<String> = row.get(4);
        let identity: Option<Vec<String>> = row.get(5);
        let columns: Vec<Column> =
            names.into_iter().zip(types).map(|(name, type_name)| Column { name, type_name }).collect();
        let identity = identity.map(|identity| {
            let own: Vec<usize> =
                (0..columns.len()).filter(|at| identity.contains(&columns[*at].name)).collect();
            let list = own.iter().map(|at| columns[*at].clone()).collect();
            (own, list)
        });
        let name = Arc::new(Name { schema: row.get(1), name: row.get(2) });
        let bools = (0..columns.len()).filter(|at| columns[*at].type_name == "boolean").collect();
        Self { name, columns: columns.into(), identity, bools }
    }

    fn tuple(&self, text: &str) -> Result<Tuple, DbError> {
        let mut values = composite::values(text, self.columns.len()).ok_or_else(|| {
            let table = crate::quote::qualified(&self.name.schema, &self.name.name);
            DbError::Replay(format!("a row of {table} was not noted as its columns were"))
        })?;
        for at in &self.bools {
            // As a cast writes it, and the log.
            values[*at] = match &values[*at] {
                Value::Text(text) => Value::Text(if text == "t" { "true" } else { "false" }.to_owned()),
                other => other.clone(),
            };
        }
        Ok(Tuple { columns: self.columns.clone(), values })
    }

    /// Takes from a row what tells it from all others.
    fn key(&self, text: &str) -> Result<Tuple, DbError> {
        let whole = self.tuple(text)?;
        let Some((own, columns)) = &self.identity else { return Ok(whole) };
        let values = own.iter().map(|at| whole.values[*at].clone()).collect();
        Ok(Tuple { columns: columns.clone(), values })
    }

    fn change(&self, noted: &Noted) -> Result<Option<Change>, DbError> {
        let table = self.name.clone();
        Ok(match (&noted.old, &noted.new, noted.step.old.is_some()) {
            (None, Some(new), false) => Some(Change::Insert { table, new: self.tuple(new)? }),
            (old, Some(new), true) => {
                let old = old.as_ref().map(|old| self.key(old)).transpose()?;
                Some(Change::Update { table, old, new: self.tuple(new)? })
            }
            (Some(old), None, _) => Some(Change::Delete { table, old: Some(self.key(old)?) }),
            _ => None,
        })
    }
}

/// A change as it was noted.
#[derive(Debug)]
struct Noted {
    lsn: Lsn,
    step: Step,
    old: Option<String>,
    new: Option<String>,
}

impl Noted {
    /// Returns how many bytes its rows have.
    fn size(&self) -> usize {
        [&self.old, &self.new].into_iter().flatten().map(String::len).sum()
    }
}

/// What divides the windows: `$1` is the snapshot before, `$2` this one.
const WINDOW: &str = "
    c.xid >= pg_catalog.pg_snapshot_xmin($1::text::pg_snapshot) and c.xid < pg_catalog.pg_snapshot_xmax($2::text::pg_snapshot)
    and not pg_catalog.pg_visible_in_snapshot(c.xid, $1::text::pg_snapshot)
    and pg_catalog.pg_visible_in_snapshot(c.xid, $2::text::pg_snapshot)";

/// Reads windows.
struct Reader {
    client: Session,
    layouts: HashMap<i64, Layout>,
    piece: Vec<Message>,
    /// How many bytes of rows are in the piece.
    bytes: usize,
    sender: mpsc::Sender<Piece>,
}

/// Nobody takes the messages any more.
struct Gone;

/// Why a reading ends.
enum End {
    Gone,
    Failed(DbError),
}

impl From<DbError> for End {
    fn from(error: DbError) -> Self {
        Self::Failed(error)
    }
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl Reader {
    async fn run(mut self, mut place: Place, asked: Arc<tokio::sync::Notify>) {
        loop {
            match self.window(&mut place).await {
                Ok(true) => {}
                Ok(false) => tokio::select! {
                    () = asked.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                    () = self.sender.closed() => return,
                },
                Err(End::Gone) => return,
                Err(End::Failed(error)) => {
                    // What came before is whole.
                    let _ = self.send().await;
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    async fn send(&mut self) -> Result<(), Gone> {
        let piece = std::mem::take(&mut self.piece);
        self.bytes = 0;
        self.sender.send(Ok(piece)).await.map_err(|_| Gone)
    }

    /// Tells whether the piece is large enough to be sent.
    fn is_full(&self) -> bool {
        self.piece.len() >= PIECE || self.bytes >= PIECE_BYTES
    }

    /// Tells the next window; false when there is none yet.
    async fn window(&mut self, place: &mut Place) -> Result<bool, End> {
        let doing = || "read the writes that were noted".to_owned();
        if place.told == u32::MAX {
            *place = Place { window: place.window + 1, told: 0 };
        }
        let rows = self
            .client
            .query(
                "select number, snapshot::text from piton_capture.\"window\" where number between $1::int8 - 1 and $1 order by number",
                &[&place.window],
            )
            .await
            .doing(doing)?;
        let snapshot = |row: &Row| row.get::<_, &str>(1).parse::<Snapshot>().map_err(DbError::Replay);
        let (before, here) = match &rows[..] {
            [before, here] => (snapshot(before)?, snapshot(here)?),
            [before] if before.get::<_, i64>(0) < place.window => {
                *place = Place { window: place.window - 1, told: u32::MAX };
                return Ok(false);
            }
            _ => {
                return Err(
                    DbError::Replay("what was written was removed before it was followed".into()).into()
                );
            }
        };
        let window = [before.to_string(), here.to_string()];
        self.read_layouts().await?;
        let disordered = self.disordered(&window).await?;
        let sql = format!(
            "select c.xid::text::int8, (c.lsn - '0/0')::int8, c.layout, c.old, c.new,
                    c.old_at::text, c.new_at::text,
                    bool_or(c.own) over (partition by c.xid) as own, max(c.lsn) over (partition by c.xid) as last
             from piton_capture.change c where {WINDOW} order by last, c.xid, c.lsn, c.ctid"
        );
        let rows = self.client.query_raw(&sql, &window).await.doing(doing)?;
        pin_mut!(rows);
        let mut under: Option<Under> = None;
        let mut told = 0;
        while let Some(row) = rows.next().await {
            let row = row.doing(doing)?;
            let xid: i64 = row.get(0);
            if under.as_ref().is_none_or(|under| under.xid != xid) {
                if let Some(under) = under.take() {
                    told += 1;
                    self.commit(under, Place { told, ..*place }, place.told).await?;
                }
                let held = disordered.contains(&xid);
                let own = row.get(7);
                // A transaction that was told before is passed over.
                if told >= place.told {
                    self.piece.push(Message::Begin { xid: xid as u32, own });
                }
                under = Some(Under {
                    xid,
                    own,
                    held,
                    noted: Vec::new(),
                    bytes: 0,
                    tables: Vec::new(),
                    at: Lsn::default(),
                });
            }
            let Some(under) = &mut under else { continue };
            if told >= place.told {
                self.take(under, &row)?;
                if self.is_full() {
                    self.send().await?;
                }
            }
        }
        if let Some(under) = under.take() {
            told += 1;
            self.commit(under, Place { told, ..*place }, place.told).await?;
        }
        place.told = u32::MAX;
        self.piece.push(Message::UpTo((*place).into()));
        self.send().await?;
        Ok(true)
    }

    /// Takes up a change of a transaction.
    fn take(&mut self, under: &mut Under, row: &Row) -> Result<(), DbError> {
        let layout: i64 = row.get(2);
        let lsn = Lsn(row.get::<_, i64>(1).unsigned_abs());
        let (old, new): (Option<String>, Option<String>) = (row.get(3), row.get(4));
        match (layout, old, new) {
            (-1, Some(why), _) => return Err(DbError::Replay(why)),
            (0, Some(schema), Some(name)) => {
                self.tell_held(under)?;
                // One statement notes each of its tables.
                under.tables.push(Arc::new(Name { schema, name }));
                under.at = lsn;
            }
            (layout, old, new) => {
                self.tell_emptied(under);
                let step = Step { layout, old: row.get(5), new: row.get(6) };
                let noted = Noted { lsn, step, old, new };
                if under.held && under.noted.len() < HELD && under.bytes < HELD_BYTES {
                    under.bytes += noted.size();
                    under.noted.push(noted);
                } else if under.held && !under.own {
                    return Err(DbError::Replay(
                        "a transaction is too large to be put in the order in which it was made".into(),
                    ));
                } else {
                    // The order of the migration's own changes matters little.
                    self.tell_held(under)?;
                    self.tell(&noted)?;
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, noted: &Noted) -> Result<(), DbError> {
        let layout = self.layouts.get(&noted.step.layout);
        let layout = layout.ok_or_else(|| DbError::Replay("a row's columns were not noted".into()))?;
        if let Some(change) = layout.change(noted)? {
            self.bytes += noted.size();
            self.piece.push(Message::Change { lsn: noted.lsn, change });
        }
        Ok(())
    }

    fn tell_emptied(&mut self, under: &mut Under) {
        if !under.tables.is_empty() {
            let tables = std::mem::take(&mut under.tables);
            self.piece.push(Message::Change { lsn: under.at, change: Change::Truncate { tables } });
        }
    }

    fn tell_held(&mut self, under: &mut Under) -> Result<(), DbError> {
        let noted = std::mem::take(&mut under.noted);
        under.bytes = 0;
        let steps: Vec<Step> = noted.iter().map(|noted| noted.step.clone()).collect();
        for at in made(&steps) {
            self.tell(&noted[at])?;
        }
        Ok(())
    }

    async fn commit(&mut self, mut under: Under, end: Place, told: u32) -> Result<(), End> {
        if end.told > told {
            self.tell_emptied(&mut under);
            self.tell_held(&mut under)?;
            self.piece.push(Message::Commit { xid: under.xid as u32, end: end.into() });
            if self.is_full() {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Reads the layouts that are not known yet.
    async fn read_layouts(&mut self) -> Result<(), DbError> {
        let known: Vec<i64> = self.layouts.keys().copied().collect();
        let rows = self
            .client
            .query(
                "select id, schema, name, columns, types, identity from piton_capture.layout where id <> all ($1)",
                &[&known],
            )
            .await
            .doing(|| "read how the tables were laid out".into())?;
        for row in rows {
            self.layouts.insert(row.get(0), Layout::of(&row));
        }
        Ok(())
    }

    /// Lists the transactions in which somebody replaces a version before it was noted who has made it.
    async fn disordered(&self, window: &[String; 2]) -> Result<HashSet<i64>, DbError> {
        let sql = format!(
            "with c as materialized (
                 select c.xid, c.lsn, c.layout, c.old_at, c.new_at from piton_capture.change c where {WINDOW})
             select distinct a.xid::text::int8 from c a
             join c b on b.xid = a.xid and b.layout = a.layout and b.new_at = a.old_at and b.lsn > a.lsn"
        );
        let rows = self
            .client
            .query(&sql, &[&window[0], &window[1]])
            .await
            .doing(|| "read in which order writes were made".into())?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// A transaction that is being told.
struct Under {
    xid: i64,
    own: bool,
    /// Whether its changes are held until they can be put in order.
    held: bool,
    noted: Vec<Noted>,
    /// How many bytes of rows these have.
    bytes: usize,
    /// Tables that were emptied together.
    tables: Vec<Arc<Name>>,
    at: Lsn,
}
