use std::path::PathBuf;
use std::time::{Duration, Instant};

use piton_db::{Database, Trouble};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Site, Words};
use crate::config::{Check, CheckKind, HttpCheck, JsonExpectation, Scalar, SqlCheck, format_duration};
use crate::fault::{Fault, Kind, OrFault};
use crate::{http, table};

/// How long a check may take that has no limit of its own.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the configured checks against the release's own port, before any traffic reaches it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checks {
    /// The release's port.
    pub port: u16,
    /// The folder in which commands run.
    pub app: PathBuf,
    /// The checks.
    pub checks: Vec<Check>,
}

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check's name.
    pub name: String,
    /// What is wrong; `None` when it passed.
    pub wrong: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

impl Act for Checks {
    fn words(&self, _site: &Site<'_>) -> Words {
        let names: Vec<&str> = self.checks.iter().map(|check| check.name.as_str()).collect();
        let count = names.len();
        let noun = if count == 1 { "check" } else { "checks" };
        Words::new(format!("{count} {noun} on :{}: {}", self.port, names.join(", ")), "nothing to undo")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let mut results = Vec::new();
        for check in &self.checks {
            ctx.say(&check.name);
            results.push(self.run(ctx, check).await?);
        }
        let wrong: Vec<&CheckResult> = results.iter().filter(|result| result.wrong.is_some()).collect();
        if wrong.is_empty() {
            return Ok(json!({ "checks": results }));
        }
        let mut fault = Fault::release(format!("{} of {} checks failed", wrong.len(), results.len()));
        for result in wrong {
            let why = result.wrong.as_deref().unwrap_or_default();
            fault = fault.because(format!("{}: {why}", result.name));
        }
        Err(fault)
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Ok(Value::Null)
    }
}

impl Checks {
    /// Runs one check; what is wrong with the release is a result, what keeps the check from running is a fault.
    async fn run(&self, ctx: &Ctx<'_, '_>, check: &Check) -> Result<CheckResult, Fault> {
        let start = Instant::now();
        let limit = check.within.unwrap_or(LIMIT);
        let looked = async {
            match &check.kind {
                CheckKind::Http(spec) => Ok(http_check(self.port, spec, limit).await),
                CheckKind::Sql(_) | CheckKind::Table(_) => on_database(&database(ctx)?, &check.kind).await,
                CheckKind::Command(line) => {
                    let mut command = line.command().cwd(&self.app);
                    for (name, value) in &ctx.settings().vars {
                        command = command.secret_env(name, value.clone());
                    }
                    let command = command.env("PORT", self.port.to_string());
                    match ctx.run(command).await {
                        Ok(_) => Ok(None),
                        Err(fault) if fault.kind == Kind::Release => Ok(Some(fault_line(&fault))),
                        Err(fault) => Err(fault),
                    }
                }
            }
        };
        let wrong = within(limit, looked).await?;
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(CheckResult { name: check.name.clone(), wrong, ms })
    }
}

/// Makes a check on a database other than the environment's; `None` for one that asks the app.
pub(super) async fn check_database(database: &Database, check: &Check) -> Result<Option<CheckResult>, Fault> {
    if matches!(check.kind, CheckKind::Http(_) | CheckKind::Command(_)) {
        return Ok(None);
    }
    let start = Instant::now();
    let wrong = within(check.within.unwrap_or(LIMIT), on_database(database, &check.kind)).await?;
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Some(CheckResult { name: check.name.clone(), wrong, ms }))
}

/// Makes the part of a check that asks a database; nothing is wrong where it asks none.
async fn on_database(database: &Database, kind: &CheckKind) -> Result<Option<String>, Fault> {
    match kind {
        CheckKind::Sql(spec) => sql_check(database, spec).await,
        CheckKind::Table(spec) => {
            let client = connect(database).await?;
            table::compare(&client, spec).await.or_fault(|| format!("{} could not be looked at", spec.table))
        }
        CheckKind::Http(_) | CheckKind::Command(_) => Ok(None),
    }
}

/// A check that is not over in time has found that to be wrong.
async fn within(
    limit: Duration,
    looked: impl Future<Output = Result<Option<String>, Fault>>,
) -> Result<Option<String>, Fault> {
    match tokio::time::timeout(limit, looked).await {
        Ok(looked) => looked,
        Err(_) => Ok(Some(format!("took longer than {}", format_duration(limit)))),
    }
}

fn database(ctx: &Ctx<'_, '_>) -> Result<Database, Fault> {
    super::database_of(ctx.settings())
}

fn fault_line(fault: &Fault) -> String {
    let mut line = fault.what.clone();
    for why in &fault.why {
        line.push_str(": ");
        line.push_str(why);
    }
    line
}

async fn http_check(port: u16, spec: &HttpCheck, limit: Duration) -> Option<String> {
    let answer = match http::get(port, &spec.get, limit).await {
        Ok(answer) => answer,
        Err(error) => return Some(error.to_string()),
    };
    if answer.status != spec.status {
        let to = answer.location.map_or_else(String::new, |location| format!(" and points to {location}"));
        return Some(format!("GET {} answers {}{to}, expected {}", spec.get, answer.status, spec.status));
    }
    if spec.json.is_empty() {
        return None;
    }
    let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else {
        return Some(format!("GET {} does not answer JSON", spec.get));
    };
    spec.json.iter().find_map(|expected| json_wrong(&body, expected))
}

fn json_wrong(body: &Value, expected: &JsonExpectation) -> Option<String> {
    let mut found = Some(body);
    for key in &expected.path {
        found = found.and_then(|value| match value {
            Value::Array(items) => key.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(key),
        });
    }
    let path = expected.path.join(".");
    match found {
        None => Some(format!("{path} is missing, expected {}", expected.value)),
        Some(found) if *found != expected.value && !same_number(found, &expected.value) => {
            Some(format!("{path} is {found}, expected {}", expected.value))
        }
        Some(_) => None,
    }
}

/// JSON has one kind of number: 1 and 1.0 are equal.
fn same_number(a: &Value, b: &Value) -> bool {
    matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a.to_bits() == b.to_bits())
}

async fn connect(database: &Database) -> Result<piton_db::Session, Fault> {
    database.connect().await.or_fault(|| format!("{database} cannot be reached"))
}

async fn sql_check(database: &Database, spec: &SqlCheck) -> Result<Option<String>, Fault> {
    let client = connect(database).await?;
    // A check looks; it must not change what it looks at.
    client
        .batch_execute("SET default_transaction_read_only = on")
        .await
        .or_fault(|| "the session cannot be made read-only".into())?;
    let rows = match client.simple_query(&spec.sql).await {
        Ok(rows) => rows,
        Err(error) if Trouble::of(&error).is_some() => {
            return Err(Fault::surroundings(format!("{database} went away during a check")).caused_by(&error));
        }
        Err(error) => {
            let why = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
            return Ok(Some(format!("the query failed: {why}")));
        }
    };
    let values: Vec<Option<String>> = rows
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        })
        .collect();
    let [value] = values.as_slice() else {
        return Ok(Some(format!("the query returned {} rows, expected one", values.len())));
    };
    let expected = match &spec.expect {
        Scalar::Integer(number) => number.to_string(),
        Scalar::Boolean(flag) => if *flag { "t" } else { "f" }.to_owned(),
        Scalar::Text(text) => text.clone(),
    };
    Ok(match value {
        Some(value) if *value == expected => None,
        Some(value) => Some(format!("the query returned {value}, expected {}", spec.expect)),
        None => Some(format!("the query returned NULL, expected {}", spec.expect)),
    })
}
