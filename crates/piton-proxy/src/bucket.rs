//! The sticky bucket: which of 10,000 equal parts of the visitors a visitor belongs to.

use std::fmt::Write as _;

use bytes::BytesMut;
use hyper::header::{COOKIE, HeaderMap, HeaderValue};

/// How many buckets there are; a weight in basis points is a count of buckets.
pub const BUCKETS: u16 = 10_000;

/// The cookie that carries a visitor's bucket.
pub const BUCKET_COOKIE: &str = "piton_bucket";

/// A visitor's bucket, 0 to 9,999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(u16);

impl Bucket {
    /// Returns the bucket of that number, or none when there is no such bucket.
    #[must_use]
    pub fn new(number: u16) -> Option<Bucket> {
        (number < BUCKETS).then_some(Bucket(number))
    }

    /// Returns the bucket's number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// Draws a bucket, each as likely as any other.
    pub(crate) fn draw() -> Bucket {
        Bucket(rand::random_range(0..BUCKETS))
    }

    /// Reads the bucket from a request's cookies; a value that is no bucket counts as none.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Bucket> {
        headers
            .get_all(COOKIE)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
            .filter_map(|pair| pair.trim_ascii().strip_prefix(BUCKET_COOKIE.as_bytes())?.strip_prefix(b"="))
            .find_map(parse)
    }

    /// Builds the `Set-Cookie` value that pins a visitor to this bucket.
    pub(crate) fn cookie(self) -> HeaderValue {
        let mut value = BytesMut::with_capacity(64);
        // Writing into a growable buffer cannot fail.
        let _ = write!(value, "{BUCKET_COOKIE}={}; Path=/; HttpOnly; SameSite=Lax", self.0);
        HeaderValue::from_maybe_shared(value.freeze()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn parse(digits: &[u8]) -> Option<Bucket> {
    if digits.is_empty() || digits.len() > 4 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Bucket::new(digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_str(line).unwrap());
        }
        Bucket::of(&headers).map(Bucket::number)
    }

    #[test]
    fn the_bucket_is_found_among_other_cookies() {
        assert_eq!(of(&["piton_bucket=0"]), Some(0));
        assert_eq!(of(&["a=b; piton_bucket=9999; c=d"]), Some(9999));
        assert_eq!(of(&["a=b", "c=d;piton_bucket=42"]), Some(42));
    }

    #[test]
    fn what_is_no_bucket_counts_as_none() {
        for line in ["", "piton_bucket=", "piton_bucket=10000", "piton_bucket=-1", "piton_bucket=1x"] {
            assert_eq!(of(&[line]), None, "{line}");
        }
        assert_eq!(of(&["xpiton_bucket=1", "piton_bucket_=1"]), None);
    }

    #[test]
    fn a_cookie_is_read_back_as_the_bucket_it_was_made_from() {
        for number in [0, 7, 1234, 9999] {
            let bucket = Bucket::new(number).unwrap();
            let value = bucket.cookie();
            assert!(value.to_str().unwrap().contains("HttpOnly; SameSite=Lax"));
            assert_eq!(of(&[value.to_str().unwrap().split(';').next().unwrap()]), Some(number));
        }
    }
}
