//! Migration tools as apps have them, and the files that make each take its database from a variable.

use std::path::{Path, PathBuf};

use crate::postgres::skip;

/// Returns the folder where `scripts/test` puts the tools.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

/// Finds a tool below the folder of tools, or among the system's programs; says `skipped: needs NAME` when it is not there.
///
/// # Panics
/// As [`skip`].
pub fn is_there(program: &str) -> bool {
    let there =
        [folder().join(program), Path::new("/usr/bin").join(program)].iter().any(|path| path.exists());
    if !there {
        skip(program.rsplit('/').next().unwrap_or(program));
    }
    there
}

/// Returns a `PATH` with the tools before what it has already, and further folders before those.
///
/// # Panics
/// When a folder's name cannot stand in a `PATH`.
#[expect(clippy::panic, reason = "a test whose PATH cannot be set has failed")]
pub fn path(before: &[&Path]) -> String {
    let own = [folder().join("python/bin"), folder().join("golang-migrate")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = before.iter().map(|folder| (*folder).to_owned()).chain(own).chain(std::env::split_paths(&path));
    match std::env::join_paths(all).map(std::ffi::OsString::into_string) {
        Ok(Ok(path)) => path,
        other => panic!("no PATH: {other:?}"),
    }
}

/// How a Python program takes its URL from the environment.
pub const FROM_ENVIRONMENT: &str = "os.environ[\"DATABASE_URL\"]";

/// Writes Alembic's `env.py`, with an expression for its URL, which goes through `ConfigParser` as in Alembic's own template.
pub fn alembic_env(url: &str) -> String {
    format!(
        "import os
from alembic import context
from sqlalchemy import engine_from_config

url = ({url}).replace(\"postgresql://\", \"postgresql+psycopg://\")
context.config.set_main_option(\"sqlalchemy.url\", url)
section = context.config.get_section(context.config.config_ini_section)
with engine_from_config(section, prefix=\"sqlalchemy.\").connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"
    )
}

/// Writes one of Alembic's revisions, with the lines of its upgrade.
pub fn alembic_revision(name: &str, before: Option<&str>, upgrade: &str) -> String {
    let before = before.map_or_else(|| "None".into(), |before| format!("\"{before}\""));
    format!(
        "from alembic import op

revision: str = \"{name}\"
down_revision = {before}


def upgrade():
    {upgrade}
"
    )
}

/// Writes Django's settings, with an expression for the URL and the packages before the app `shop`.
pub fn django_settings(url: &str, packages: &[&str]) -> String {
    let apps: String = packages.iter().chain(&["shop"]).map(|app| format!("\"{app}\", ")).collect();
    format!(
        "import os
from urllib.parse import parse_qsl, unquote, urlsplit

url = urlsplit({url})
DATABASES = {{\"default\": {{
    \"ENGINE\": \"django.db.backends.postgresql\",
    \"HOST\": url.hostname,
    \"PORT\": url.port,
    \"USER\": unquote(url.username),
    \"PASSWORD\": unquote(url.password or \"\"),
    \"NAME\": unquote(url.path[1:]),
    \"OPTIONS\": dict(parse_qsl(url.query)),
}}}}
INSTALLED_APPS = [{apps}]
SECRET_KEY = \"x\"
"
    )
}

/// Django's `manage.py`.
pub const DJANGO_MANAGE: &str = "import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"settings\")
execute_from_command_line(sys.argv)
";

/// Writes one of Django's migrations of the app `shop`: the one before it, lines of the class, and its operations.
pub fn django_migration(before: Option<&str>, more: &str, operations: &str) -> String {
    let needs = before.map_or_else(String::new, |before| format!("(\"shop\", \"{before}\")"));
    format!(
        "from django.db import migrations


class Migration(migrations.Migration):
    {more}
    dependencies = [{needs}]
    operations = [{operations}]
"
    )
}

/// Prisma's schema, with a generator that needs no engine to be downloaded.
pub const PRISMA_SCHEMA: &str = r#"generator client {
  provider = "prisma-client"
  engineType = "client"
  output = "../generated"
}
datasource db {
  provider = "postgresql"
  url = env("DATABASE_URL")
}
"#;

/// Writes `prisma.config.ts` with Prisma's engine in WebAssembly, which reaches the database by the app's own driver.
pub fn prisma_config(url: &str) -> String {
    format!(
        r#"import {{ defineConfig }} from "prisma/config";
import {{ PrismaPg }} from "@prisma/adapter-pg";
import pg from "pg";

// The engine knows no column of the type name.
const described = pg.Query.prototype.handleRowDescription;
pg.Query.prototype.handleRowDescription = function (message) {{
  for (const field of message.fields) {{
    field.dataTypeID = {{ 19: 25, 1003: 1009 }}[field.dataTypeID] ?? field.dataTypeID;
  }}
  return described.call(this, message);
}};
// A timer of ten seconds that nobody waits for keeps the program from its end.
const later = globalThis.setTimeout;
globalThis.setTimeout = Object.assign((work, ms, ...rest) => {{
  const timer = later(work, ms, ...rest);
  return ms >= 10_000 ? timer.unref() : timer;
}}, later);
export default defineConfig({{
  experimental: {{ adapter: true }},
  engine: "js",
  schema: "prisma/schema.prisma",
  adapter: async () => new PrismaPg({{ connectionString: {url}, allowExitOnIdle: true }}),
}});
"#
    )
}
