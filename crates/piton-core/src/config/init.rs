//! Proposes a configuration from what is found in a folder.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value as Json;

use super::model::KnownTool;
use super::tools;

/// A configuration that fits a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The text of `piton.toml`, with comments where a person has to look again.
    pub text: String,
    /// What was found and what it was taken for, one short sentence each.
    pub found: Vec<String>,
    /// Keys whose value is only a placeholder, each with what belongs there.
    pub missing: Vec<String>,
    /// The files with secrets that the text refers to, there or to be written.
    pub env_files: Vec<String>,
}

/// How Node's package managers are recognised, what installs exactly what the lock file says, and how scripts are run.
const PACKAGE_MANAGERS: [(&str, &str, &str); 4] = [
    ("package-lock.json", "npm ci", "npm"),
    ("pnpm-lock.yaml", "pnpm install --frozen-lockfile", "pnpm"),
    ("yarn.lock", "yarn install --frozen-lockfile", "yarn"),
    ("bun.lock", "bun install --frozen-lockfile", "bun"),
];

/// Endings of `.env.NAME` that name no environment.
const NO_ENVIRONMENTS: [&str; 8] =
    ["example", "sample", "template", "dist", "local", "test", "development", "dev"];

/// Where frameworks keep the page that says whether the app is well.
const HEALTH_PAGES: [&str; 4] =
    ["app/api/health", "src/app/api/health", "pages/api/health.ts", "pages/api/health.js"];

/// Proposes a configuration for the app in the folder; it is read without errors again, and writes nothing.
pub fn propose(dir: &Path) -> Proposal {
    let mut finds = Finds::default();
    finds.cargo(dir);
    finds.node(dir);
    finds.procfile(dir);
    finds.health(dir);
    finds.environments(dir);
    finds.database(dir);
    if finds.app.is_empty() {
        let name =
            dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        finds.app = as_name(&name.unwrap_or_default());
    }
    let missing = match finds.command {
        Some(_) => Vec::new(),
        None => vec!["run.command: what starts the app".to_owned()],
    };
    let env_files = finds.names().iter().map(|name| env_file(name)).collect();
    Proposal { text: finds.text(), found: finds.found, missing, env_files }
}

/// What was found in a folder.
#[derive(Default)]
struct Finds {
    app: String,
    build: Vec<String>,
    command: Option<String>,
    health: Option<&'static str>,
    migrations: Option<(KnownTool, &'static str)>,
    database: bool,
    environments: Vec<String>,
    found: Vec<String>,
}

impl Finds {
    fn cargo(&mut self, dir: &Path) {
        let manifest = read(dir, "Cargo.toml").and_then(|text| text.parse::<toml::Table>().ok());
        let Some(name) = manifest.as_ref().and_then(|m| m.get("package")?.get("name")?.as_str()) else {
            return;
        };
        self.app = as_name(name);
        self.build.push("cargo build --release --locked".to_owned());
        self.command = Some(format!("target/release/{name}"));
        self.found.push(format!("Cargo.toml: the app `{name}`, built by cargo"));
    }

    fn node(&mut self, dir: &Path) {
        let Some(package) =
            read(dir, "package.json").and_then(|text| serde_json::from_str::<Json>(&text).ok())
        else {
            return;
        };
        if let Some(name) = package.get("name").and_then(Json::as_str).filter(|_| self.app.is_empty()) {
            self.app = as_name(name);
            self.found.push(format!("package.json: the app `{name}`"));
        }
        let lock = PACKAGE_MANAGERS.iter().find(|(lock, ..)| dir.join(lock).is_file());
        let manager = lock.map_or("npm", |(_, _, manager)| manager);
        if let Some((lock, install, _)) = lock {
            self.build.push((*install).to_owned());
            self.found.push(format!("{lock}: packages come by `{install}`"));
        }
        let script = |name: &str| package.get("scripts").and_then(|scripts| scripts.get(name)).is_some();
        if script("build") {
            self.build.push(format!("{manager} run build"));
            self.found.push("package.json: a build script".to_owned());
        }
        if script("start") && self.command.is_none() {
            self.command = Some(format!("{manager} run start"));
            self.found.push("package.json: a start script".to_owned());
        }
    }

    /// A Procfile says how the app is started in so many words: it wins.
    fn procfile(&mut self, dir: &Path) {
        let text = read(dir, "Procfile").unwrap_or_default();
        let Some(line) = text.lines().find_map(|line| line.strip_prefix("web:")).map(str::trim) else {
            return;
        };
        if line.is_empty() {
            return;
        }
        // A Procfile's line is a shell's; Piton runs none, so that the shell is named where it is needed.
        let needs_shell =
            line.contains(['$', '|', '&', ';', '<', '>', '`', '*']) || shell_words::split(line).is_err();
        let line = if needs_shell {
            shell_words::join(["sh", "-c", &format!("exec {line}")])
        } else {
            line.to_owned()
        };
        self.found.push(format!("Procfile: the app is started by `{line}`"));
        self.command = Some(line);
    }

    fn health(&mut self, dir: &Path) {
        if let Some(page) = HEALTH_PAGES.iter().find(|page| dir.join(page).exists()) {
            self.health = Some("/api/health");
            self.found.push(format!("{page}: the app says at /api/health whether it is well"));
        }
    }

    fn environments(&mut self, dir: &Path) {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = files
            .filter_map(|file| file.file_name().to_str()?.strip_prefix(".env.").map(str::to_owned))
            .filter(|name| !NO_ENVIRONMENTS.contains(&name.as_str()) && as_name(name) == *name)
            .collect();
        // Production last: it comes after the others.
        names.sort_by_key(|name| (is_production(name), name.clone()));
        self.found.extend(names.iter().map(|name| format!(".env.{name}: the environment `{name}`")));
        self.environments = names;
    }

    fn database(&mut self, dir: &Path) {
        self.migrations = tools::find(dir);
        if let Some((tool, folder)) = self.migrations {
            self.found.push(match tool {
                KnownTool::Sql => format!("{folder}/: the database's migrations"),
                _ => format!("{folder}/: the database's migrations, by {}", tools::word(tool)),
            });
        }
        let sets_url = |name: &String| {
            let text = read(dir, &format!(".env.{name}")).unwrap_or_default();
            super::dotenv::parse(&text).is_ok_and(|variables| variables.contains_key("DATABASE_URL"))
        };
        self.database = self.migrations.is_some() || self.environments.iter().any(sets_url);
    }

    fn text(&self) -> String {
        let mut text = String::from("# How the app is released. `piton schema` describes every key.\n\n");
        put(&mut text, format_args!("app = {}\n", quoted(&self.app)));
        if !self.build.is_empty() {
            let lines: Vec<String> = self.build.iter().map(|line| quoted(line)).collect();
            put(&mut text, format_args!("\n[build]\nrun = [{}]\n", lines.join(", ")));
        }
        let command = match &self.command {
            // A dollar sign is the shell's here, not the beginning of a variable of Piton's.
            Some(command) => format!("command = {}", quoted(&command.replace('$', "$$"))),
            None => "command = \"bin/server\"        # not found: what starts the app?".to_owned(),
        };
        let ready = self.health.unwrap_or("/");
        put(
            &mut text,
            format_args!(
                "\n[run]\n{command}\n# The app listens on $PORT and answers 200 here when it is ready.\n\
                 ready = {{ get = {}, within = \"60s\" }}\n",
                quoted(ready)
            ),
        );
        if self.database {
            put(
                &mut text,
                format_args!(
                    "\n[database]\nurl = \"${{DATABASE_URL}}\"       # from the environment's env_file\n"
                ),
            );
            match self.migrations {
                Some((KnownTool::Sql, folder)) => {
                    put(&mut text, format_args!("folder = {}\n", quoted(folder)));
                }
                Some((tool, folder)) => {
                    let tool = quoted(&tools::word(tool));
                    put(&mut text, format_args!("migrations = {tool}\nfolder = {}\n", quoted(folder)));
                }
                None => put(&mut text, format_args!("# folder = \"migrations\"      # plain SQL files\n")),
            }
        }
        self.write_environments(&mut text);
        put(
            &mut text,
            format_args!(
                "\n[[check]]\nname = \"health\"\nget = {}\nexpect = {{ status = 200 }}\n",
                quoted(ready)
            ),
        );
        text
    }

    /// Names the environments.
    fn names(&self) -> Vec<String> {
        match self.environments.is_empty() {
            true => vec!["staging".to_owned(), "production".to_owned()],
            false => self.environments.clone(),
        }
    }

    fn write_environments(&self, text: &mut String) {
        let names = self.names();
        let production = names.iter().find(|name| is_production(name));
        if production.is_some() {
            put(
                text,
                format_args!(
                    "\n# How traffic moves in protected environments.\n[rollout]\n\
                     steps = [\"5% for 2h\", \"25% for 4h\", \"50% for 8h\", \"100%\"]\nwatch = \"24h\"\n\n\
                     # What sends a release back.\n[gate]\nerrors = \"1%\"\n"
                ),
            );
        }
        let before = names.iter().rfind(|name| !is_production(name));
        for (i, name) in names.iter().enumerate() {
            put(text, format_args!("\n[environments.{name}]\n"));
            if is_production(name) {
                put(text, format_args!("protected = true\n"));
                if let Some(before) = before {
                    put(text, format_args!("after = {}\n", quoted(before)));
                }
                put(text, format_args!("# window = \"Tue 10:00-12:00 America/New_York\"\n"));
            }
            if self.environments.is_empty() {
                put(text, format_args!("# env_file = \".env.{name}\"   # not found: the app's variables\n"));
            } else {
                put(text, format_args!("env_file = \".env.{name}\"\n"));
            }
            if let Some(production) = production.filter(|_| self.database && !is_production(name)) {
                put(text, format_args!("data = {{ from = {} }}\n", quoted(production)));
            }
            let (listen, blue) = (8080 + i, 3101 + 100 * i);
            put(
                text,
                format_args!(
                    "listen = \"127.0.0.1:{listen}\"\nports = {{ blue = {blue}, green = {} }}\n",
                    blue + 1
                ),
            );
        }
    }
}

fn env_file(environment: &str) -> String {
    format!(".env.{environment}")
}

fn is_production(name: &str) -> bool {
    matches!(name, "production" | "prod" | "live")
}

fn read(dir: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(name)).ok()
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = text.write_fmt(part);
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Makes a name that the configuration takes: `@acme/Web App` becomes `acme-web-app`.
fn as_name(text: &str) -> String {
    let mut name = String::new();
    for sign in text.chars().map(|c| c.to_ascii_lowercase()) {
        let fits = sign.is_ascii_lowercase() || (!name.is_empty() && (sign.is_ascii_digit() || sign == '_'));
        if fits {
            name.push(sign);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(40);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "app".to_owned() } else { name.to_owned() }
}
