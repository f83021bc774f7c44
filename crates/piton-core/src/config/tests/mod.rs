//! Whole configurations: what right ones mean, and how wrong ones are told.

mod init;
mod resolved;
mod schema;
mod secrets;
mod wrong;

use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme};

use super::{Config, ConfigError, Settings, parse};

/// A configuration that uses every key.
const FULL: &str = include_str!("full.toml");

/// The smallest configuration there is.
const SMALL: &str = r#"app = "shop"

[run]
command = "bin/server"
ready = { get = "/" }

[environments.production]
protected = true
listen = "8080"
ports = { blue = 3001, green = 3002 }
"#;

/// Writes the error as a terminal shows it, without colour.
fn render(error: &ConfigError) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut text = String::new();
    handler.render_report(&mut text, error).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A folder with files in it.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(Path::new("/srv/app"), "piton.toml", text)
}

/// Resolves an environment of a configuration that stands in a folder with these files.
fn resolve(
    text: &str,
    files: &[(&str, &str)],
    environment: &str,
    process: &[(&str, &str)],
) -> Result<Settings, ConfigError> {
    let dir = folder(files);
    let config = parse(dir.path(), "piton.toml", text)?;
    config.environment(environment, &|name| {
        process.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}
