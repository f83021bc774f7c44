//! Which variables are secrets, and which of them stand in the wrong environment.
//!
//! Everything here answers with names: a value never leaves.

use std::collections::BTreeMap;

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

/// Returns the names of the secrets that have the same value in both environments, without those declared shared.
///
/// Of a URL with a password the password is compared: two databases that open with one password share a secret, whatever
/// their hosts are called.
pub fn equal_secrets<'a>(a: &'a Settings, b: &Settings) -> Vec<&'a str> {
    let equal = |name: &str| match (a.vars.get(name), b.vars.get(name)) {
        (Some(a), Some(b)) => secret_part(a.expose_secret()) == secret_part(b.expose_secret()),
        _ => false,
    };
    let shared = |name: &str| a.shared_secrets.contains(name);
    secret_names(&a.vars).into_iter().filter(|name| equal(name) && !shared(name)).collect()
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
    let name = name.to_ascii_uppercase();
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    // `TOKEN_TTL=3600` and `PASSWORD_LOGIN=true` are settings; so is an empty value.
    let is_setting = value.is_empty()
        || matches!(value, "true" | "false")
        || (value.len() <= 6 && value.bytes().all(|b| b.is_ascii_digit()));
    has(&SECRET_WORDS) && !has(&PUBLIC_WORDS) && !is_setting
}

/// Returns the password of a URL that has one.
pub(crate) fn password_of(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password).filter(|password| !password.is_empty())
}

fn secret_part(value: &str) -> &str {
    password_of(value).unwrap_or(value)
}

fn holding<'a>(vars: &'a BTreeMap<String, Secret>, prefixes: &[&str]) -> Vec<&'a str> {
    let holds = |value: &Secret| prefixes.iter().any(|prefix| value.expose_secret().contains(prefix));
    vars.iter().filter(|(_, value)| holds(value)).map(|(name, _)| name.as_str()).collect()
}
