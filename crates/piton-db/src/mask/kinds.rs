//! What becomes of a value: a keyed stand-in that nobody can turn back without the key.
//!
//! The same value always has the same stand-in of its kind, whichever table it is in: joins and uniqueness hold.

use aes::Aes256;
use fpe::ff1::{FF1, FlexibleNumeralString};
use serde::{Deserialize, Serialize};

/// How a column's values are masked. NULL stays NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The value stays.
    Keep,
    /// NULL.
    Null,
    /// What says nothing in the column's type: 0, the empty text, the address 0.0.0.0.
    Blank,
    /// An address below `example.invalid`, to which nothing is ever delivered.
    Email,
    /// As many words, made up of syllables.
    Name,
    /// Other digits and letters in the same form: telephones, cards, identity numbers.
    Digits,
    /// Words of the same length.
    Text,
    /// JSON of the same form, with other texts and numbers; its keys stay.
    Json,
    /// The first of January of the same year.
    Year,
}

impl Kind {
    /// Returns the kind as it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Null => "null",
            Self::Blank => "blank",
            Self::Email => "email",
            Self::Name => "name",
            Self::Digits => "digits",
            Self::Text => "text",
            Self::Json => "json",
            Self::Year => "year",
        }
    }

    /// Returns from how many characters on a hundred thousand stand-ins differ with a good chance.
    pub(super) fn apart(self) -> usize {
        match self {
            Self::Email => SHORTEST_EMAIL + 2,
            Self::Name => 12,
            _ => 0,
        }
    }
}

/// The key of an app's masks; whoever has it can tell which stand-in belongs to a value that they know.
#[derive(Clone)]
pub struct MaskKey([u8; 32]);

impl std::fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MaskKey(•••)")
    }
}

/// The length of the shortest address: an 8-digit hash, and the domain.
pub(super) const SHORTEST_EMAIL: usize = 1 + 8 + DOMAIN.len();
const DOMAIN: &str = "@example.invalid";
/// From how many digits on the order of them is encrypted, so that no two numbers become one.
const ENCRYPTED: usize = 6;

impl MaskKey {
    /// Takes 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn stream(&self, kind: Kind, value: &[u8]) -> Stream {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(kind.word().as_bytes()).update(b"\0").update(value);
        Stream(hasher.finalize_xof())
    }

    /// Returns the stand-in for a value of at most `most` characters; `None` for NULL.
    pub(super) fn stand_in(&self, kind: Kind, value: &[u8], most: usize) -> Option<Vec<u8>> {
        match kind {
            Kind::Keep => Some(value.to_vec()),
            Kind::Null => None,
            Kind::Blank => Some(Vec::new()),
            // Nothing to hide, and an app may take it for "none".
            _ if value.is_empty() => Some(Vec::new()),
            Kind::Email => Some(self.email(value, most)),
            Kind::Name => Some(self.name(value, most)),
            Kind::Digits => Some(self.digits(value)),
            Kind::Text => Some(self.text(Kind::Text, value)),
            Kind::Json => Some(self.json(value)),
            Kind::Year => Some(year(value)),
        }
    }

    fn email(&self, value: &[u8], most: usize) -> Vec<u8> {
        let digits = 24.min(most.saturating_sub(1 + DOMAIN.len()));
        let mut stream = self.stream(Kind::Email, value);
        let mut text = vec![b'u'];
        text.extend((0..digits).map(|_| b"0123456789abcdef"[stream.below(16)]));
        text.extend_from_slice(DOMAIN.as_bytes());
        text
    }

    fn name(&self, value: &[u8], most: usize) -> Vec<u8> {
        let mut stream = self.stream(Kind::Name, value);
        let words = value.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).count().clamp(1, 4);
        // So many that what was unique is unique still, among millions.
        let syllables = [10, 5, 4, 3][words - 1];
        let mut text = Vec::new();
        for word in 0..words {
            if word > 0 {
                text.push(b' ');
            }
            let begin = text.len();
            (0..syllables).for_each(|_| text.extend(stream.syllable()));
            text[begin].make_ascii_uppercase();
        }
        text.truncate(most);
        text
    }

    fn digits(&self, value: &[u8]) -> Vec<u8> {
        let digits = digits_of(value);
        // What is left of the value, so that two that differ in letters alone differ still.
        let form: Vec<u8> =
            value.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte }).collect();
        let mut letters = self.other_letters(value).into_iter();
        let mut letter = || letters.next().unwrap_or(0);
        let mut other = self.other_digits(&digits, &form).into_iter();
        let mut text = Vec::with_capacity(value.len());
        for byte in value {
            text.push(match byte {
                b'0'..=b'9' => other.next().unwrap_or(b'0'),
                b'a'..=b'z' => b'a' + letter(),
                b'A'..=b'Z' => b'A' + letter(),
                // A character that is no ASCII has one such byte, and others that continue it.
                0xC0.. => b'x',
                0x80..0xC0 => continue,
                _ => *byte,
            });
        }
        text
    }

    /// Returns another number with as many digits, on both sides of the point, as the server writes it; zero stays.
    pub(super) fn number(&self, value: &[u8], largest: Option<u64>) -> Vec<u8> {
        let digits = digits_of(value);
        let is_zero = |digits: &[u16]| digits.iter().all(|digit| *digit == 0);
        if is_zero(&digits) {
            return value.to_vec();
        }
        let fits = |other: &[u16]| {
            let number = other
                .iter()
                .fold(0u128, |number, digit| number.saturating_mul(10).saturating_add(u128::from(*digit)));
            (other[0] == 0) == (digits[0] == 0)
                && !is_zero(other)
                && largest.is_none_or(|largest| number <= largest.into())
        };
        let mut walked = digits.clone();
        // Encrypted again and again, until it is such a number: even so no two become one.
        for round in 0u32.. {
            walked = digits_of(&self.other_digits(&walked, &round.to_le_bytes()));
            if fits(&walked) {
                break;
            }
        }
        let mut other = walked.into_iter().map(ascii);
        let replaced = |byte: &u8| if byte.is_ascii_digit() { other.next().unwrap_or(b'0') } else { *byte };
        value.iter().map(replaced).collect()
    }

    fn other_digits(&self, digits: &[u16], form: &[u8]) -> Vec<u8> {
        if digits.len() >= ENCRYPTED
            && let Ok(cipher) = FF1::<Aes256>::new(&self.0, 10)
            && let Ok(encrypted) = cipher.encrypt(b"", &FlexibleNumeralString::from(digits.to_vec()))
        {
            return Vec::from(encrypted).into_iter().map(ascii).collect();
        }
        let known: Vec<u8> =
            digits.iter().flat_map(|digit| digit.to_le_bytes()).chain(form.iter().copied()).collect();
        let mut stream = self.stream(Kind::Digits, &known);
        digits.iter().map(|_| b'0' + stream.below_u8(10)).collect()
    }

    /// Returns the places in the alphabet of other letters: a Feistel network, so that no two values of the same digits and form
    /// become one. FF1 takes none as few as an identity number has.
    fn other_letters(&self, value: &[u8]) -> Vec<u8> {
        let place = |byte: &u8| byte.to_ascii_lowercase() - b'a';
        let mut letters: Vec<u8> =
            value.iter().filter(|byte| byte.is_ascii_alphabetic()).map(place).collect();
        let case = |byte: &u8| match byte {
            b'a'..=b'z' => b'a',
            b'A'..=b'Z' => b'A',
            other => *other,
        };
        let known: Vec<u8> = value.iter().map(case).collect();
        let half = letters.len() / 2;
        let (left, right) = letters.split_at_mut(half);
        for round in 0..10 {
            let (from, to) = if round % 2 == 0 { (&*left, &mut *right) } else { (&*right, &mut *left) };
            let mut stream = self.stream(Kind::Digits, &[&[round], from, known.as_slice()].concat());
            to.iter_mut().for_each(|letter| *letter = (*letter + stream.below_u8(26)) % 26);
        }
        letters
    }

    /// Returns words with as many characters as the value has.
    fn text(&self, kind: Kind, value: &[u8]) -> Vec<u8> {
        // Continuation bytes of UTF-8 are no characters.
        let length = value.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        let mut stream = self.stream(kind, value);
        let mut text = Vec::with_capacity(length + 8);
        while text.len() < length {
            if !text.is_empty() {
                text.push(b' ');
            }
            (0..=stream.below(3)).for_each(|_| text.extend(stream.syllable()));
        }
        text.truncate(length);
        // A blank at the end would be another length to some.
        if let Some(last) = text.last_mut().filter(|last| **last == b' ') {
            *last = b'a';
        }
        text
    }

    /// Replaces the texts and numbers of JSON, token by token: the server's own spacing and the order of keys stay.
    fn json(&self, value: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(value.len());
        for token in tokens(value) {
            match token {
                Token::Key(key) => text.extend_from_slice(key),
                Token::Text(quoted) => {
                    text.push(b'"');
                    text.extend(self.text(Kind::Json, &quoted[1..quoted.len() - 1]));
                    text.push(b'"');
                }
                Token::Number(digits) => {
                    let mut stream = self.stream(Kind::Json, digits);
                    // No zero: none may lead, and a trailing one is another number of digits.
                    text.extend(digits.iter().map(|_| b'1' + stream.below_u8(9)));
                }
                Token::Other(byte) => text.push(byte),
            }
        }
        text
    }
}

fn digits_of(value: &[u8]) -> Vec<u16> {
    value.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| u16::from(byte - b'0')).collect()
}

fn ascii(digit: u16) -> u8 {
    b'0' + u8::try_from(digit).unwrap_or(0)
}

/// A part of JSON.
enum Token<'a> {
    /// A key with its quotes.
    Key(&'a [u8]),
    /// A text with its quotes.
    Text(&'a [u8]),
    /// The digits of a number, or some of them.
    Number(&'a [u8]),
    Other(u8),
}

fn tokens(json: &[u8]) -> impl Iterator<Item = Token<'_>> {
    let mut rest = json;
    std::iter::from_fn(move || {
        let (token, after) = match *rest.first()? {
            b'"' => {
                let (string, after) = rest.split_at(end_of_string(rest));
                let is_key = after.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                (if is_key { Token::Key(string) } else { Token::Text(string) }, after)
            }
            b'0'..=b'9' => {
                let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                (Token::Number(&rest[..length]), &rest[length..])
            }
            other => (Token::Other(other), &rest[1..]),
        };
        rest = after;
        Some(token)
    })
}

/// Returns the keys of JSON, each as it reads without its escapes.
pub(super) fn keys(json: &[u8]) -> impl Iterator<Item = String> {
    tokens(json).filter_map(|token| match token {
        Token::Key(key) => serde_json::from_slice(key).ok(),
        _ => None,
    })
}

/// Returns the place after the closing quote of the JSON text that this begins with.
fn end_of_string(json: &[u8]) -> usize {
    let mut end = 1;
    while end < json.len() {
        match json[end] {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    json.len()
}

/// Cuts a date or a time, as COPY writes it in UTC, down to its year; `infinity` stays.
fn year(value: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(value);
    let Some((year, rest)) = text
        .split_once('-')
        .filter(|(year, _)| !year.is_empty() && year.bytes().all(|byte| byte.is_ascii_digit()))
    else {
        return value.to_vec();
    };
    let mut masked = format!("{year}-01-01");
    if rest.contains(':') {
        masked.push_str(" 00:00:00");
        masked.push_str(if rest.contains('+') { "+00" } else { "" });
    }
    if text.ends_with(" BC") {
        masked.push_str(" BC");
    }
    masked.into_bytes()
}

/// An endless stream of bytes that depend on a key and a value.
struct Stream(blake3::OutputReader);

impl Stream {
    fn below(&mut self, limit: u16) -> usize {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        usize::try_from(u32::from_le_bytes(bytes) % u32::from(limit)).unwrap_or(0)
    }

    fn below_u8(&mut self, limit: u8) -> u8 {
        u8::try_from(self.below(u16::from(limit))).unwrap_or(0)
    }

    fn syllable(&mut self) -> [u8; 2] {
        [b"bdfgjklmnprstvwz"[self.below(16)], b"aeiou"[self.below(5)]]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key() -> MaskKey {
        MaskKey::new([7; 32])
    }

    fn masked(kind: Kind, value: &str) -> String {
        String::from_utf8(key().stand_in(kind, value.as_bytes(), 1000).unwrap()).unwrap()
    }

    #[test]
    fn each_kind_keeps_its_form() {
        let email = masked(Kind::Email, "ada@example.org");
        assert!(email.ends_with("@example.invalid") && email.len() == 41, "{email}");
        assert_eq!(key().stand_in(Kind::Email, b"ada@example.org", 30).unwrap().len(), 30);
        let name = masked(Kind::Name, "Ada Lovelace");
        assert_eq!((name.split(' ').count(), name.len()), (2, 21), "{name}");
        let phone = masked(Kind::Digits, "+44 (0)20 7946-0018");
        let form = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "9");
        assert_eq!(form(&phone), form("+44 (0)20 7946-0018"));
        assert_ne!(phone, "+44 (0)20 7946-0018");
        let phone = masked(Kind::Digits, "+44 20 7946–0018 Büro");
        assert_eq!(phone.chars().count(), 21, "as many characters, not bytes: {phone}");
        let number =
            |value: &str, largest| String::from_utf8(key().number(value.as_bytes(), largest)).unwrap();
        assert_eq!((number("0.00", None).as_str(), number("NaN", None).as_str()), ("0.00", "NaN"));
        assert_eq!(form(&number("-1234567.05", None)), form("-1234567.05"));
        for value in 2_147_480_000..2_147_480_100u64 {
            assert!(number(&value.to_string(), Some(2_147_483_647)).parse::<i32>().unwrap() >= 1_000_000_000);
        }
        let words = masked(Kind::Text, "Grüße aus Köln");
        assert_eq!(words.chars().count(), 14, "{words}");
        assert_eq!(masked(Kind::Text, ""), "");
        assert!(key().stand_in(Kind::Null, b"x", 10).is_none());
    }

    #[test]
    fn json_keeps_its_keys_and_its_shape() {
        let json = r#"{"mail": "ada@example.org", "ages": [36, 10.5, -2], "ok": true, "no": null, "in \"er\"": {"a:": "b\"c"}}"#;
        let text = masked(Kind::Json, json);
        let before: serde_json::Value = serde_json::from_str(json).unwrap();
        let after: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(after["ok"], true);
        assert!(after["no"].is_null() && after["in \"er\""]["a:"].is_string());
        assert_ne!(after["mail"], before["mail"]);
        assert_ne!(after["ages"], before["ages"]);
        assert!(!text.contains("ada") && !text.contains("36"), "{text}");
    }

    #[test]
    fn a_date_keeps_its_year() {
        for (from, to) in [
            ("1815-12-10", "1815-01-01"),
            ("1815-12-10 11:12:13.5", "1815-01-01 00:00:00"),
            ("1815-12-10 11:12:13+00", "1815-01-01 00:00:00+00"),
            ("0044-03-15 BC", "0044-01-01 BC"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
        ] {
            assert_eq!(masked(Kind::Year, from), to);
        }
    }

    #[test]
    fn many_values_have_many_stand_ins() {
        for kind in [Kind::Email, Kind::Name, Kind::Digits] {
            let stand_ins: HashSet<String> =
                (100_000..110_000).map(|number| masked(kind, &format!("{number} {number}"))).collect();
            assert_eq!(stand_ins.len(), 10_000, "{kind:?}");
        }
    }

    #[test]
    fn values_that_differ_in_letters_alone_differ_still() {
        let letters = || (b'A'..=b'Z').map(char::from);
        for rest in ["", "1", "123456"] {
            let values = letters().flat_map(|a| letters().map(move |b| format!("{a}-{b}{rest}")));
            let stand_ins: HashSet<String> = values.map(|value| masked(Kind::Digits, &value)).collect();
            assert_eq!(stand_ins.len(), 26 * 26, "before {rest}");
        }
        let stand_ins: HashSet<String> =
            letters().map(|letter| masked(Kind::Digits, &letter.to_string())).collect();
        assert_eq!(stand_ins.len(), 26);
    }

    #[test]
    fn one_word_of_a_name_keeps_people_apart() {
        let names = |most: usize, many: u32| {
            let stand_in = |number: u32| key().stand_in(Kind::Name, number.to_string().as_bytes(), most);
            (0..many).filter_map(stand_in).collect::<HashSet<_>>().len()
        };
        assert_eq!(masked(Kind::Name, "ada").len(), 20);
        assert_eq!(names(Kind::Name.apart(), 20_000), 20_000);
        assert!(names(8, 20_000) < 20_000);
    }

    proptest! {
        #[test]
        fn a_stand_in_is_always_the_same_and_another_keys_is_not(value in "[a-z0-9@ ]{6,40}") {
            for kind in [Kind::Email, Kind::Name, Kind::Digits, Kind::Text] {
                prop_assert_eq!(masked(kind, &value), masked(kind, &value));
            }
            let other = MaskKey::new([8; 32]).stand_in(Kind::Email, value.as_bytes(), 100);
            prop_assert_ne!(other.unwrap(), masked(Kind::Email, &value).into_bytes());
        }

        #[test]
        fn no_two_numbers_become_one(a in 100_000u64..u64::MAX, b in 100_000u64..u64::MAX) {
            prop_assume!(a != b);
            prop_assert_ne!(masked(Kind::Digits, &a.to_string()), masked(Kind::Digits, &b.to_string()));
        }

        #[test]
        fn any_json_stays_json(text in "\\PC{0,30}", number in any::<i64>()) {
            let json = serde_json::json!({ &text: [&text, number, { "k": &text }] }).to_string();
            let after: serde_json::Value = serde_json::from_str(&masked(Kind::Json, &json)).unwrap();
            prop_assert!(after[&text].is_array());
        }
    }
}
