//! What a writer says: templates filled in by chance.
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{k}`, `{k2}` | a key that nobody has used |
//! | `{o}`, `{p}` | two different keys that this writer has used, or of the rows of the setup |
//! | `{w}` | the writer's number: 0, 1 or 2 |
//! | `{i}`, `{j}` | digits |
//! | `{n}` | a number below a million |
//! | `{s}` | a short word |
//! | `{t}`, `{u}` | a text with all that makes texts hard, as a literal; of at most 24 characters |
//!
//! A key's remainder by three is its writer's number, so that no two writers touch the same row. Keys may come from a pool of their own:
//! `{k:orders}`, `{o:orders}`. A pool in small letters, as the one without a name, begins with the keys of the setup: 1 to 30. One in
//! capitals begins empty.

use std::collections::HashMap;

use super::file::Words;

/// How many writers there are.
pub(super) const WRITERS: u64 = 3;

/// The keys that rows of a setup have.
const SETUP: u64 = 30;

/// The first keys that writers take.
const FIRST: u64 = 400;

/// Chance that can be repeated.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, of: &str) -> Self {
        let mixed = of.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mixed)
    }

    /// Returns a number below `sides`.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    pub(super) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let at = self.roll(all.len() as u64);
        &all[usize::try_from(at).unwrap()]
    }
}

/// A template filled in.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) live: String,
    /// The old words; empty where there are none.
    pub(super) twin: String,
}

/// What one writer draws from.
pub(super) struct Draws {
    pub(super) dice: Dice,
    writer: u64,
    next: u64,
    pools: HashMap<String, Vec<u64>>,
}

/// How far each pool was filled.
pub(super) struct Level(HashMap<String, usize>);

impl Draws {
    pub(super) fn new(dice: Dice, writer: u64) -> Self {
        Self { dice, writer, next: FIRST, pools: HashMap::new() }
    }

    /// Fills in a template; `None` when it wants a key of a pool that has none.
    pub(super) fn fill(&mut self, words: &Words) -> Option<Said> {
        let mut drawn = HashMap::new();
        let mut taken = Vec::new();
        let live = self.text(&words.said, &mut drawn, &mut taken)?;
        let twin = match &words.was {
            Some(was) => self.text(was, &mut drawn, &mut taken)?,
            None => live.clone(),
        };
        for (pool, key) in taken {
            self.pool(&pool).push(key);
        }
        Some(Said { live, twin })
    }

    /// Tells how far the pools are filled, for [`Draws::back_to`].
    pub(super) fn level(&self) -> Level {
        Level(self.pools.iter().map(|(name, keys)| (name.clone(), keys.len())).collect())
    }

    /// Forgets the keys that were taken since: their rows are not there.
    pub(super) fn back_to(&mut self, level: &Level) {
        for (name, keys) in &mut self.pools {
            keys.truncate(level.0.get(name).copied().unwrap_or_else(|| from_setup(name, self.writer).len()));
        }
    }

    fn text(
        &mut self,
        template: &str,
        drawn: &mut HashMap<String, String>,
        taken: &mut Vec<(String, u64)>,
    ) -> Option<String> {
        let (mut text, mut rest) = (String::new(), template);
        while let Some(open) = rest.find('{') {
            text.push_str(&rest[..open]);
            rest = &rest[open..];
            let token = rest[1..].find(['{', '}']).filter(|end| rest[1 + end..].starts_with('}'));
            let token = token.map(|end| rest[1..=end].to_owned()).filter(|token| is_known(token));
            let Some(token) = token else {
                text.push('{');
                rest = &rest[1..];
                continue;
            };
            rest = &rest[token.len() + 2..];
            if let Some(value) = drawn.get(&token) {
                text.push_str(value);
                continue;
            }
            let value = self.value(&token, drawn, taken)?;
            text.push_str(&value);
            drawn.insert(token, value);
        }
        text.push_str(rest);
        Some(text)
    }

    fn value(
        &mut self,
        token: &str,
        drawn: &HashMap<String, String>,
        taken: &mut Vec<(String, u64)>,
    ) -> Option<String> {
        let (name, pool) = token.split_once(':').unwrap_or((token, ""));
        Some(match name {
            "k" | "k2" => {
                let key = self.next * WRITERS + self.writer;
                self.next += 1;
                taken.push((pool.to_owned(), key));
                key.to_string()
            }
            "o" | "p" => {
                let other = if name == "o" { "p" } else { "o" };
                let other = drawn.get(&token.replacen(name, other, 1)).and_then(|key| key.parse().ok());
                let keys: Vec<u64> =
                    self.pool(pool).iter().copied().filter(|key| Some(*key) != other).collect();
                // The newest are wanted more often: what is not there any more is no test.
                let newest = &keys[keys.len().saturating_sub(8)..];
                let from = if self.dice.chance(50) { newest } else { &keys };
                if from.is_empty() {
                    return None;
                }
                self.dice.pick(from).to_string()
            }
            "w" => self.writer.to_string(),
            "i" | "j" => self.dice.roll(10).to_string(),
            "n" => self.dice.roll(1_000_000).to_string(),
            "s" => (*self.dice.pick::<&str>(&SHORT)).to_owned(),
            _ => hard_text(&mut self.dice),
        })
    }

    fn pool(&mut self, name: &str) -> &mut Vec<u64> {
        let writer = self.writer;
        self.pools.entry(name.to_owned()).or_insert_with(|| from_setup(name, writer))
    }
}

fn from_setup(pool: &str, writer: u64) -> Vec<u64> {
    if pool.chars().any(char::is_uppercase) {
        return Vec::new();
    }
    (1..=SETUP).filter(|key| key % WRITERS == writer).collect()
}

fn is_known(token: &str) -> bool {
    let (name, pool) = token.split_once(':').unwrap_or((token, ""));
    match name {
        "k" | "k2" | "o" | "p" => pool.chars().all(|c| c.is_ascii_alphanumeric()),
        "w" | "i" | "j" | "n" | "s" | "t" | "u" => !token.contains(':'),
        _ => false,
    }
}

const SHORT: [&str; 8] = ["red", "green", "blue", "a", "z", "Ab", "x1", "zz"];

/// What has broken a reader of texts somewhere, and what a stream of changes is written with.
const HARD: [&str; 40] = [
    "",
    "'",
    "''",
    "\"",
    "\\",
    "\\\\",
    "\\N",
    "\\.",
    "\n",
    "\r\n",
    "\t",
    "\u{1}",
    "\u{7f}",
    "ü",
    "ß",
    "日本",
    "e\u{301}",
    "🦀",
    "\u{200b}",
    "\u{feff}",
    "null",
    "NULL",
    "{}",
    "{a,b}",
    "(1,2)",
    "[1]",
    ",",
    ";",
    "--",
    "/*",
    "$1",
    "$$",
    "%s",
    " ",
    "unchanged-toast-datum",
    "(no-tuple-data)",
    "old-key: id",
    "new-tuple:",
    " b[text]:'x'",
    "BEGIN 7",
];

/// Returns a text as a literal.
fn hard_text(dice: &mut Dice) -> String {
    let mut text = String::new();
    for _ in 0..=dice.roll(4) {
        text.push_str(dice.pick::<&str>(&HARD));
        if dice.chance(40) {
            text.push_str(dice.pick::<&str>(&SHORT));
        }
    }
    let text: String = text.chars().take(24).collect();
    piton_db::quote::literal(&text)
}
