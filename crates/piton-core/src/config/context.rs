//! Reads single values: fills in variables, parses, notes where each value came from and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use piton_exec::Secret;
use serde::Serialize;

use super::document::Document;
use super::dotenv::{self, Variable};
use super::error::Problem;
use super::secrets;
use super::settings::{Origin, OriginEntry};
use super::values::ValueError;

/// What stands for a secret.
const HIDDEN: &str = "•••";

/// Where `${NAME}` is looked up.
pub(super) enum Variables<'a> {
    /// Nowhere: a value with a variable in it is checked when its environment is asked for.
    Unknown,
    /// In the environment's file first: it names the environment on purpose, while a `DATABASE_URL` that was left behind
    /// in the operator's shell may be another one's.
    Known {
        /// The environment's file.
        env_file: Option<EnvFile>,
        /// Piton's own environment.
        process: &'a dyn Fn(&str) -> Option<String>,
    },
}

/// An environment's file of variables.
pub(super) struct EnvFile {
    /// The path as configured.
    pub(super) path: PathBuf,
    pub(super) variables: BTreeMap<String, Variable>,
}

impl EnvFile {
    /// Reads the file; the error says which line is wrong and shows no value.
    pub(super) fn read(root: &Path, path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(root.join(path))
            .map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let variables = dotenv::parse(&text).map_err(|error| format!("{shown}, {error}"))?;
        Ok(Self { path: path.to_owned(), variables })
    }
}

/// What the values of one environment are read with.
pub(super) struct Context<'a> {
    document: &'a Document,
    environment: &'a str,
    variables: &'a Variables<'a>,
    pub(super) problems: Vec<Problem>,
    pub(super) origins: Vec<OriginEntry>,
}

impl<'a> Context<'a> {
    pub(super) fn new(document: &'a Document, environment: &'a str, variables: &'a Variables<'a>) -> Self {
        Self { document, environment, variables, problems: Vec::new(), origins: Vec::new() }
    }

    /// Reads a text; `None` when it is wrong, which is noted, or not known yet.
    ///
    /// What is filled in must be no secret, because such a text gets into plans.
    pub(super) fn text(&mut self, path: &str, written: &str) -> Option<String> {
        let (text, origin) = self.fill(path, written, false)?;
        self.origins.push(OriginEntry { key: path.to_owned(), value: text.clone(), origin });
        Some(text)
    }

    /// Reads a value, or its default when none is written; as [`Self::text`].
    pub(super) fn parse<T>(
        &mut self,
        path: &str,
        written: Option<&str>,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        let text = self.text(path, written.unwrap_or(default))?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(path, error.to_string());
                None
            }
        }
    }

    /// Reads a value that has no default: `Some(None)` when none is written; otherwise as [`Self::text`].
    pub(super) fn optional<T>(
        &mut self,
        path: &str,
        written: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<Option<T>> {
        match written {
            Some(written) => self.required(path, written, parse).map(Some),
            None => Some(None),
        }
    }

    /// Reads a value that is always written; as [`Self::text`].
    pub(super) fn required<T>(
        &mut self,
        path: &str,
        written: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        self.parse(path, Some(written), "", parse)
    }

    /// Reads a secret, or its default when none is written; as [`Self::text`], but shown nowhere.
    pub(super) fn secret(&mut self, path: &str, written: Option<&str>, default: &str) -> Option<Secret> {
        let (text, origin) = self.fill(path, written.unwrap_or(default), true)?;
        self.origins.push(OriginEntry { key: path.to_owned(), value: HIDDEN.to_owned(), origin });
        Some(text.into())
    }

    /// Notes a value in which no variables are filled in.
    pub(super) fn note(&mut self, path: &str, value: impl Display) {
        let origin = self.origin(path);
        self.origins.push(OriginEntry { key: path.to_owned(), value: value.to_string(), origin });
    }

    /// Notes one of a few words, as the file spells it.
    pub(super) fn note_word(&mut self, path: &str, word: impl Serialize) {
        if let Ok(serde_json::Value::String(word)) = serde_json::to_value(word) {
            self.note(path, word);
        }
    }

    /// Notes that the value at the path is wrong, and which variable made it so.
    pub(super) fn refuse(&mut self, path: &str, message: impl Into<String>) {
        let place = self.document.value(path);
        let read = self.origins.iter().rfind(|entry| entry.key == path).map(|entry| &entry.origin);
        let label = match read {
            Some(origin @ (Origin::EnvFile { .. } | Origin::Environment { .. })) => {
                format!("`{path}`, filled in from {origin}")
            }
            _ => format!("`{path}`"),
        };
        self.problems.push(Problem::new(message).at(place, label));
    }

    /// Notes a mistake without pointing at it, because the place shows a secret.
    pub(super) fn refuse_unseen(&mut self, message: &str) {
        self.problems.push(Problem::new(message));
    }

    /// Notes the variables that the app gets, none of which is shown.
    pub(super) fn note_variables(&mut self, file: &EnvFile) {
        self.origins.extend(file.variables.iter().map(|(name, variable)| OriginEntry {
            key: name.clone(),
            value: HIDDEN.to_owned(),
            origin: Origin::EnvFile { path: file.path.clone(), line: variable.line },
        }));
    }

    fn origin(&self, path: &str) -> Origin {
        self.document.line(path).map_or(Origin::Default, |line| Origin::File { line })
    }

    /// Fills in the variables; a value with variables comes from where the first of them does.
    fn fill(&mut self, path: &str, template: &str, may_be_secret: bool) -> Option<(String, Origin)> {
        let parts = match parts(template) {
            Ok(parts) => parts,
            Err(error) => {
                self.refuse(path, error.to_string());
                return None;
            }
        };
        let (mut text, mut origin, mut complete) = (String::new(), None, true);
        for part in parts {
            let name = match part {
                Part::Text(part) => {
                    text.push_str(&part);
                    continue;
                }
                Part::Variable(name) => name,
            };
            let Some((value, from)) = self.look_up(&name) else {
                self.missing(path, &name);
                complete = false;
                continue;
            };
            if !may_be_secret && secrets::is_secret(&name, &value) {
                self.secret_in_sight(path, &name);
                complete = false;
            }
            text.push_str(&value);
            origin.get_or_insert(from);
        }
        complete.then(|| (text, origin.unwrap_or_else(|| self.origin(path))))
    }

    fn look_up(&self, name: &str) -> Option<(String, Origin)> {
        let Variables::Known { env_file, process } = self.variables else {
            return None;
        };
        let in_file = env_file.as_ref().and_then(|file| {
            let found = file.variables.get(name)?;
            Some((found.value.clone(), Origin::EnvFile { path: file.path.clone(), line: found.line }))
        });
        in_file.or_else(|| Some((process(name)?, Origin::Environment { variable: name.to_owned() })))
    }

    fn missing(&mut self, path: &str, name: &str) {
        let Variables::Known { env_file, .. } = self.variables else {
            return;
        };
        let environment = self.environment;
        let (label, help) = match env_file {
            Some(file) => {
                let file = file.path.display();
                (
                    format!("`{name}` is neither in {file} nor in Piton's own environment"),
                    format!("add `{name}=…` to {file}"),
                )
            }
            None => (
                format!("`{name}` is not in Piton's own environment, and {environment} has no env_file"),
                format!("write `{name}=…` into .env.{environment}"),
            ),
        };
        let message = format!("`{path}` needs the variable `{name}`, which {environment} does not have");
        self.problems.push(Problem::new(message).at(self.document.value(path), label).help(help));
    }

    fn secret_in_sight(&mut self, path: &str, name: &str) {
        let problem = Problem::new(format!("`{path}` would show the secret `{name}`"))
            .at(self.document.value(path), "this gets into plans and the journal")
            .help(format!("let the program read `{name}` from its environment: it gets all of the env_file"));
        self.problems.push(problem);
    }
}

/// A piece of a configured text.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

/// Splits a text at its `${NAME}`; `$$` is a dollar sign, and so is one that no `{` follows.
fn parts(text: &str) -> Result<Vec<Part>, ValueError> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        plain.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            let (name, after) =
                after.split_once('}').filter(|(name, _)| dotenv::is_name(name)).ok_or_else(|| {
                    ValueError::new("`${` does not begin a variable like `${NAME}`; a dollar sign is `$$`")
                })?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(Part::Variable(name.to_owned()));
            rest = after;
        } else {
            plain.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        }
    }
    plain.push_str(rest);
    parts.push(Part::Text(plain));
    Ok(parts)
}

/// Tells whether a text has a variable in it.
pub(super) fn has_variable(text: &str) -> bool {
    parts(text).is_ok_and(|parts| parts.iter().any(|part| matches!(part, Part::Variable(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_and_dollars_escaped() {
        let text = |s: &str| Part::Text(s.to_owned());
        let variable = |s: &str| Part::Variable(s.to_owned());
        assert_eq!(parts("a${B}c").unwrap(), [text("a"), variable("B"), text("c")]);
        assert_eq!(parts("$$${B}").unwrap(), [text("$"), variable("B"), text("")]);
        assert_eq!(parts("$${B} $1 $").unwrap(), [text("${B} $1 $")]);
        for wrong in ["${", "${}", "${A", "${A B}", "${1A}"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
