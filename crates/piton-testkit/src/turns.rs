//! What a short run tries of what takes long: chosen by a seed, so that all of it has its turn.

use std::sync::OnceLock;

/// Tells whether everything is tried, as `scripts/campaign` asks for, or what a short run has time for.
pub fn run_all() -> bool {
    std::env::var("PITON_CAMPAIGN").is_ok_and(|value| value == "1")
}

/// Returns all cases where everything is tried; in a short run so many of them, from the seed on.
pub fn sampled<T>(all: &[T], count: usize) -> Vec<&T> {
    let from = usize::try_from(seed() % all.len() as u64).unwrap_or(0);
    let count = if run_all() { all.len() } else { count };
    all.iter().cycle().skip(from).take(count).collect()
}

/// Tells whether everything is tried, or this is the one of so many whose turn a short run has come to.
pub fn has_its_turn(number: u64, of: u64) -> bool {
    // Mixed: what is sampled within a turn goes by the seed's own last bits.
    run_all() || (seed().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % of == number
}

/// Tells whether everything is tried, or the test that calls this is of the half that a short run has come to.
///
/// Which half, its name says: a seed that is even takes one, and the next the other.
pub fn is_of_this_half() -> bool {
    // libtest names the thread after the test, where each has its own.
    let thread = std::thread::current();
    let name = thread.name().filter(|name| *name != "main");
    let digest = |name: &str| {
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    run_all() || name.is_none_or(|name| (digest(name) >> 32) % 2 == seed() % 2)
}

/// Returns the seed of what a short run leaves to chance: `PITON_SEED`, or a new one, which is printed.
#[expect(clippy::print_stdout, reason = "a test that fails shows by which seed it can be repeated")]
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    let seed = *SEED.get_or_init(|| {
        let given = std::env::var("PITON_SEED").ok().and_then(|seed| seed.parse().ok());
        given.unwrap_or_else(|| u64::from(std::process::id()))
    });
    // Each time: what a test that passes has printed is not shown.
    println!("PITON_SEED={seed}");
    seed
}
