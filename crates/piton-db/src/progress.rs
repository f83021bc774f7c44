/// What long work is doing, for a progress bar or a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, such as `dump` or `migrate`.
    pub doing: &'static str,
    /// The table, file or migration just finished or begun.
    pub what: String,
    /// How many are finished.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// Takes progress as it comes.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);
