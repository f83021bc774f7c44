use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

/// A value handed to a program through its environment.
#[derive(Clone, Debug)]
pub enum EnvValue {
    /// Printed as it is.
    Plain(String),
    /// Printed as `•••`.
    Secret(SecretString),
}

/// A program, its arguments and its environment.
///
/// `Display` prints the line that a person would type, quoted for a POSIX shell, with every secret as `•••`.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program's name or path, found through `PATH`.
    pub program: String,
    /// The arguments, passed as they are.
    pub args: Vec<String>,
    /// What is added to the inherited environment.
    pub env: Vec<(String, EnvValue)>,
    /// What the names of variables begin with that are not inherited.
    pub without: Option<String>,
    /// The folder to run in; `None` is the caller's.
    pub cwd: Option<PathBuf>,
}

impl Command {
    /// Starts a command without arguments.
    pub fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), without: None, cwd: None }
    }

    /// Splits a configured line (`npm run build`) into program and arguments by shell quoting rules, without a shell.
    ///
    /// # Errors
    /// When the line is empty or its quotes do not match.
    pub fn parse(line: &str) -> Result<Self, ParseError> {
        let mut words = shell_words::split(line).map_err(|_| ParseError(line.to_owned()))?.into_iter();
        let program = words.next().ok_or_else(|| ParseError(line.to_owned()))?;
        Ok(Self::new(program).args(words))
    }

    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable that may be printed.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), EnvValue::Plain(value.into())));
        self
    }

    /// Adds a variable that is never printed.
    #[must_use]
    pub fn secret_env(mut self, name: impl Into<String>, value: SecretString) -> Self {
        self.env.push((name.into(), EnvValue::Secret(value)));
        self
    }

    /// Lets the program inherit no variable whose name begins so; those that are added count all the same.
    #[must_use]
    pub fn without_env(mut self, prefix: impl Into<String>) -> Self {
        self.without = Some(prefix.into());
        self
    }

    /// Sets the folder to run in.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            match value {
                EnvValue::Plain(v) => write!(f, "{name}={} ", shell_words::quote(v))?,
                EnvValue::Secret(_) => write!(f, "{name}=••• ")?,
            }
        }
        f.write_str(&shell_words::quote(&self.program))?;
        for arg in &self.args {
            match arg.split_once('=') {
                // `--name='a value'` is easier to read than `'--name=a value'`.
                Some((name, value)) if name.starts_with("--") => {
                    write!(f, " {}={}", shell_words::quote(name), shell_words::quote(value))?;
                }
                _ => write!(f, " {}", shell_words::quote(arg))?,
            }
        }
        Ok(())
    }
}

/// A configured command line that no program can be read from.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a command: it is empty or its quotes do not match")]
pub struct ParseError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_quotes_arguments_and_hides_secrets() {
        let c = Command::new("psql").secret_env("PGPASSWORD", "hunter2".into()).env("PGTZ", "UTC").args([
            "--set=a=b c",
            "-c",
            "select 'a b'",
        ]);
        assert_eq!(c.to_string(), r#"PGPASSWORD=••• PGTZ=UTC psql --set='a=b c' -c 'select '\''a b'\'''"#);
        assert!(!format!("{c:?}").contains("hunter2"));
    }

    #[test]
    fn parse_never_runs_a_shell() {
        let c = Command::parse("npm run 'build && rm -rf /' $HOME").unwrap();
        assert_eq!(c.args, ["run", "build && rm -rf /", "$HOME"]);
        assert!(Command::parse("").is_err());
        assert!(Command::parse("a 'b").is_err());
    }
}
