//! Which variables are secrets, and which of them stand in the wrong environment.
//!
//! Everything here answers with names: a value never leaves.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use piton_exec::{ExposeSecret, Secret};

use super::settings::Settings;

/// Words in a variable's name that say that its value is secret.
const SECRET_WORDS: [&str; 14] = [
    "KEY",
    "KEYS",
    "APIKEY",
    "SECRET",
    "SECRETS",
    "TOKEN",
    "TOKENS",
    "PASSWORD",
    "PASSWD",
    "PASS",
    "PWD",
    "CREDENTIAL",
    "CREDENTIALS",
    "DSN",
];

/// Words in a variable's name that say that its value is sent to every visitor.
const PUBLIC_WORDS: [&str; 2] = ["PUBLIC", "PUBLISHABLE"];

/// How Stripe's keys for real money begin.
const LIVE_PREFIXES: [&str; 3] = ["sk_live_", "pk_live_", "rk_live_"];

/// How Stripe's keys for play money begin.
const TEST_PREFIXES: [&str; 3] = ["sk_test_", "pk_test_", "rk_test_"];

/// Returns the names of the variables whose name or value says that they are secrets, sorted.
pub fn secret_names(vars: &BTreeMap<String, Secret>) -> Vec<&str> {
    let secret = |(name, value): (&String, &Secret)| is_secret(name, value.expose_secret());
    vars.iter().filter(|&entry| secret(entry)).map(|(name, _)| name.as_str()).collect()
}

/// From how many characters on two secrets of different names are one by more than chance.
const LONG: usize = 6;

/// From how many characters on a value is a secret wherever it stands, once it is one anywhere.
const UNMISTAKABLE: usize = 16;

/// Returns the secrets that have the same value in both environments, by their names here and there, without those declared
/// shared under either name.
///
/// Whatever a secret is called there: `STRIPE_KEY` here may be `STRIPE_SECRET` in the other environment. Of a URL with a
/// password the password is compared: two databases that open with one password share a secret, whatever their hosts are
/// called.
pub fn equal_secrets<'a>(a: &'a Settings, b: &'a Settings) -> Vec<(&'a str, &'a str)> {
    let is_shared = |name: &str| a.shared_secrets.contains(name);
    let mut equal = Vec::new();
    for (own, value) in a.vars.iter().filter(|(own, _)| !is_shared(own)) {
        let same =
            |theirs: &str| b.vars.get(theirs).is_some_and(|other| is_one((own, value), (theirs, other)));
        let others = b.vars.keys().map(String::as_str).filter(|theirs| *theirs != own);
        let theirs =
            std::iter::once(own.as_str()).chain(others).find(|theirs| same(theirs) && !is_shared(theirs));
        equal.extend(theirs.map(|theirs| (own.as_str(), theirs)));
    }
    equal
}

/// Tells whether two variables hold one secret.
fn is_one((own, a): (&str, &Secret), (theirs, b): (&str, &Secret)) -> bool {
    let (a, b) = (a.expose_secret(), b.expose_secret());
    let part = secret_part(a);
    if part.is_empty() || part != secret_part(b) {
        return false;
    }
    let (own_is, theirs_is) = (is_secret(own, a), is_secret(theirs, b));
    if own == theirs {
        return own_is;
    }
    let length = part.chars().count();
    let is_public = |name: &str| has_word(name, &PUBLIC_WORDS);
    (own_is && theirs_is && length >= LONG)
        || ((own_is || theirs_is) && length >= UNMISTAKABLE && !is_public(own) && !is_public(theirs))
}

/// Returns the names of the variables that hold a payment key for real money although the environment is not protected.
pub fn live_keys_outside_protected(settings: &Settings) -> Vec<&str> {
    if settings.protected { Vec::new() } else { holding(&settings.vars, &LIVE_PREFIXES) }
}

/// Returns the names of the variables that hold a payment key for play money although the environment is protected.
pub fn test_keys_inside_protected(settings: &Settings) -> Vec<&str> {
    if settings.protected { holding(&settings.vars, &TEST_PREFIXES) } else { Vec::new() }
}

/// Tells whether a variable is a secret by its name or its value.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    if password_of(value).is_some() || LIVE_PREFIXES.iter().any(|prefix| value.contains(prefix)) {
        return true;
    }
    // `TOKEN_TTL=3600` and `PASSWORD_LOGIN=true` are settings; so is an empty value.
    let is_setting = value.is_empty()
        || matches!(value, "true" | "false")
        || (value.len() <= 6 && value.bytes().all(|b| b.is_ascii_digit()));
    has_word(name, &SECRET_WORDS) && !has_word(name, &PUBLIC_WORDS) && !is_setting
}

fn has_word(name: &str, words: &[&str]) -> bool {
    name.to_ascii_uppercase().split('_').any(|word| words.contains(&word))
}

/// Returns the password of a URL that has one.
pub(crate) fn password_of(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password).filter(|password| !password.is_empty())
}

/// Returns what is secret of a value, as it is meant: in a URL it is written otherwise than alone.
fn secret_part(value: &str) -> Cow<'_, str> {
    match password_of(value) {
        Some(password) => percent_decode_str(password).decode_utf8_lossy(),
        None => Cow::Borrowed(value),
    }
}

fn holding<'a>(vars: &'a BTreeMap<String, Secret>, prefixes: &[&str]) -> Vec<&'a str> {
    let holds = |value: &Secret| prefixes.iter().any(|prefix| value.expose_secret().contains(prefix));
    vars.iter().filter(|(_, value)| holds(value)).map(|(name, _)| name.as_str()).collect()
}
