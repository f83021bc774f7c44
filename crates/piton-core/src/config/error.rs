//! What is wrong with a configuration, with pointers into the file.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// A configuration that cannot be used, with everything that is wrong with it.
///
/// As a [`miette::Diagnostic`] it points into `piton.toml`; several mistakes come as related diagnostics.
#[derive(Debug)]
pub struct ConfigError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    source: Option<NamedSource<String>>,
    problems: Vec<Problem>,
}

/// One mistake: what it is, where it is, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    message: String,
    labels: Vec<(Range<usize>, String)>,
    help: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), labels: Vec::new(), help: None }
    }

    /// Points at a place, when there is one.
    pub(super) fn at(mut self, place: Option<Range<usize>>, label: impl Into<String>) -> Self {
        self.labels.extend(place.map(|place| (place, label.into())));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Returns where the mistake is, to put the mistakes of a file into its order.
    pub(super) fn position(&self) -> usize {
        self.labels.first().map_or(usize::MAX, |(place, _)| place.start)
    }
}

impl ConfigError {
    /// One mistake that is not in a file.
    pub(super) fn bare(problem: Problem) -> Self {
        Self(Box::new(Inner { source: None, problems: vec![problem] }))
    }

    /// The mistakes of a file; there has to be at least one.
    pub(super) fn in_file(name: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::position);
        let source = NamedSource::new(name, text.to_owned()).with_language("TOML");
        Self(Box::new(Inner { source: Some(source), problems }))
    }

    /// Returns what is wrong, one short text for each mistake, in the order of the file.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.0.problems.iter().map(|problem| problem.message.as_str())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.problems[..], &self.0.source) {
            ([one], _) => one.fmt(f),
            (many, Some(source)) => write!(f, "{} has {} mistakes", source.name(), many.len()),
            (many, None) => write!(f, "{} mistakes", many.len()),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.single()?.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.single()?.labels()
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.single().is_some() {
            return None;
        }
        Some(Box::new(self.0.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

impl ConfigError {
    fn single(&self) -> Option<&Problem> {
        if let [one] = &self.0.problems[..] { Some(one) } else { None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if self.labels.is_empty() {
            return None;
        }
        let spans = self.labels.iter().map(|(place, label)| {
            LabeledSpan::new((!label.is_empty()).then(|| label.clone()), place.start, place.len())
        });
        Some(Box::new(spans))
    }
}

/// Returns the candidate that the word is most like, when one is like it.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Writes names for people: `` `a`, `b` and `c` ``.
pub(super) fn listed<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match &names[..] {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
