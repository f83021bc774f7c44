//! What the keys of a configuration mean for one another: names that must exist, must differ, or exclude each other.

use std::collections::BTreeMap;

use piton_db::lint;

use super::document::Document;
use super::error::{Problem, listed, nearest};
use super::model::{Check, Data, Expect, File};

/// Lists everything that is wrong between the keys, whatever the environment.
pub(super) fn validate(file: &File, document: &Document) -> Vec<Problem> {
    let mut validation = Validation { file, document, problems: Vec::new() };
    validation.names();
    validation.environments();
    validation.chains();
    validation.lint();
    validation.downs();
    validation.checks();
    validation.problems
}

struct Validation<'a> {
    file: &'a File,
    document: &'a Document,
    problems: Vec<Problem>,
}

impl Validation<'_> {
    fn refuse(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        let problem = Problem::new(message).at(self.document.value(path), format!("`{path}`"));
        self.problems.push(problem.help(help));
    }

    /// Names get into names of folders, databases and sockets.
    fn names(&mut self) {
        const RULE: &str = "a name begins with a small letter, has small letters, digits, `-` and `_`, and at most 40 of them";
        let fits = |name: &str| {
            name.len() <= 40
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
        };
        if !fits(&self.file.app) {
            self.refuse("app", format!("`{}` cannot be an app's name", self.file.app), RULE);
        }
        if self.file.environments.is_empty() {
            self.refuse("environments", "there is no environment", "add `[environments.staging]`");
        }
        for name in self.file.environments.keys().filter(|name| !fits(name)) {
            let path = format!("environments.{name}");
            self.refuse(&path, format!("`{name}` cannot be an environment's name"), RULE);
        }
    }

    fn lint(&mut self) {
        let usual: Vec<String> = lint::usual_rules().collect();
        for rule in self.file.lint.keys().filter(|rule| lint::rules_of(rule).is_empty()) {
            let help = match nearest(rule, usual.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there is: {}, and what else squawk has", listed(&usual)),
            };
            self.refuse(&format!("lint.{rule}"), format!("there is no lint rule `{rule}`"), help);
        }
    }

    fn downs(&mut self) {
        let downs = self.file.database.iter().flat_map(|database| &database.down);
        let downs: Vec<_> = downs.map(|down| (&down.migration, &down.table, &down.column)).collect();
        for (i, down) in downs.iter().enumerate() {
            if let Some(first) = downs[..i].iter().position(|other| other == down) {
                let place = |i: usize| self.document.value(&format!("database.down[{i}].column"));
                let (migration, table, column) = down;
                let problem = Problem::new(format!(
                    "two down expressions tell what {table}.{column} was before {migration}"
                ))
                .at(place(i), "the second one")
                .at(place(first), "the first one");
                self.problems.push(problem.help("remove one of them"));
            }
        }
    }

    fn environments(&mut self) {
        let file = self.file;
        for (name, environment) in &file.environments {
            let path = |key: &str| format!("environments.{name}.{key}");
            if let Some(after) = &environment.after {
                self.must_exist(&path("after"), after);
            }
            if let Some(data) = &environment.data {
                self.data(name, data);
                if environment.protected == Some(true) {
                    self.refuse(
                        &path("data"),
                        format!("{name} is protected: its database is never made anew"),
                        "remove `data`, or `protected = true`",
                    );
                }
                if file.database.is_none() {
                    self.refuse(
                        &path("data"),
                        "there is no [database] to make anew",
                        "add `[database]`, or remove `data`",
                    );
                }
            }
            if environment.ports.blue == environment.ports.green {
                self.refuse(
                    &path("ports.green"),
                    "the blue and the green slot have the same port",
                    "both run at once while traffic moves: give each its own",
                );
            }
        }
        let any_protected = file.environments.values().any(|e| e.protected == Some(true));
        if file.rollout.is_some() && !any_protected && !file.environments.is_empty() {
            self.refuse(
                "rollout",
                "[rollout] is for protected environments, and there is none",
                "set `protected = true` in the environment that people depend on, or give one its own `rollout`",
            );
        }
    }

    fn data(&mut self, environment: &str, data: &Data) {
        let path = |key: &str| format!("environments.{environment}.{key}");
        if let Some(from) = &data.from {
            self.must_exist(&path("data.from"), from);
        }
        let wrong = match (&data.from, data.fresh) {
            (Some(_), Some(_)) => Some(("has both `from` and `fresh`", "remove one of them")),
            (None, None | Some(false)) => Some((
                "does not say what the database is made from",
                "write `from = \"production\"`, or `fresh = true`",
            )),
            _ => None,
        };
        if let Some((what, help)) = wrong {
            self.refuse(&path("data"), format!("`data` {what}"), help);
        }
        if data.from.is_some() && data.seed.is_some() {
            let what = "a copy of another environment's rows takes no seed";
            self.refuse(
                &path("data.seed"),
                what,
                "remove `seed`, or write `fresh = true` in place of `from`",
            );
        }
        if data.from.is_none() && data.fresh == Some(true) && data.mask.is_some() {
            let what = "a fresh database has nobody's data to mask";
            self.refuse(&path("data.mask"), what, "remove `mask`");
        }
        if data.from.is_none() && data.fresh == Some(true) && data.empty.is_some() {
            let what = "a fresh database has no rows to leave out";
            self.refuse(&path("data.empty"), what, "remove `empty`");
        }
    }

    fn must_exist(&mut self, path: &str, name: &str) {
        let names = || self.file.environments.keys().map(String::as_str);
        if names().any(|known| known == name) {
            return;
        }
        let label = nearest(name, names());
        let label = label.map_or("not in this file".to_owned(), |near| format!("did you mean `{near}`?"));
        let problem = Problem::new(format!("there is no environment `{name}`"))
            .at(self.document.value(path), label)
            .help(format!("there is: {}", listed(names())));
        self.problems.push(problem);
    }

    /// An environment cannot wait for itself, nor be made from itself, over however many others.
    fn chains(&mut self) {
        let file = self.file;
        let after =
            file.environments.iter().filter_map(|(name, e)| Some((name.as_str(), e.after.as_deref()?)));
        self.circle("after", "is released after itself", &after.collect());
        let data = file
            .environments
            .iter()
            .filter_map(|(name, e)| Some((name.as_str(), e.data.as_ref()?.from.as_deref()?)));
        self.circle("data.from", "gets its data from itself", &data.collect());
    }

    fn circle(&mut self, key: &str, what: &str, next: &BTreeMap<&str, &str>) {
        let mut reported: Vec<&str> = Vec::new();
        for &start in next.keys() {
            let mut way = vec![start];
            let mut at = start;
            while let Some(&to) = next.get(at).filter(|to| **to == start || !way.contains(to)) {
                way.push(to);
                at = to;
                if to == start {
                    break;
                }
            }
            let is_circle = way.len() > 1 && way.last() == Some(&start);
            if !is_circle || reported.iter().any(|name| way.contains(name)) {
                continue;
            }
            reported.push(start);
            let places = way.iter().rev().skip(1).rev();
            let problem = Problem::new(format!("{start} {what}: {}", way.join(" → ")));
            let problem = places.fold(problem, |problem, name| {
                problem.at(self.document.value(&format!("environments.{name}.{key}")), "")
            });
            self.problems
                .push(problem.help(format!("remove one `{}`", key.split('.').next().unwrap_or(key))));
        }
    }

    fn checks(&mut self) {
        let file = self.file;
        for (i, check) in file.check.iter().enumerate() {
            let path = |key: &str| format!("check[{i}].{key}");
            if let Some(first) = file.check[..i].iter().position(|other| other.name == check.name) {
                let problem = Problem::new(format!("two checks are called `{}`", check.name))
                    .at(self.document.value(&path("name")), "the second one")
                    .at(self.document.value(&format!("check[{first}].name")), "the first one");
                self.problems.push(problem.help("results are known by the name: give each its own"));
            }
            for (j, name) in check.on.iter().flatten().enumerate() {
                self.must_exist(&path(&format!("on[{j}]")), name);
            }
            self.check_kind(i, check);
        }
    }

    fn check_kind(&mut self, i: usize, check: &Check) {
        let kinds = [
            ("get", check.get.is_some()),
            ("sql", check.sql.is_some()),
            ("command", check.command.is_some()),
            ("table", check.table.is_some()),
        ];
        let path = |key: &str| format!("check[{i}].{key}");
        let name = &check.name;
        let has: Vec<&str> = kinds.iter().filter(|(_, has)| *has).map(|(kind, _)| *kind).collect();
        let [kind] = has[..] else {
            let message = match &has[..] {
                [] => format!("the check `{name}` looks at nothing"),
                many => format!("the check `{name}` looks at several things: {}", listed(many)),
            };
            let problem = Problem::new(message).at(self.document.value(&path("name")), "this check");
            self.problems.push(problem.help("a check has one of `get`, `sql`, `command` and `table`"));
            return;
        };
        if matches!(kind, "sql" | "table") && self.file.database.is_none() {
            self.refuse(
                &path(kind),
                format!("the check `{name}` looks into a database, and there is none"),
                "add `[database]`",
            );
        }
        // Which kinds each of the other keys is for.
        let keys: [(&str, bool, &[&str]); 6] = [
            ("expect", check.expect.is_some(), &["get", "sql"]),
            ("within", check.within.is_some(), &["get", "sql", "command"]),
            ("columns", check.columns.is_some(), &["table"]),
            ("primary_key", check.primary_key.is_some(), &["table"]),
            ("unique", check.unique.is_some(), &["table"]),
            ("foreign_keys", check.foreign_keys.is_some(), &["table"]),
        ];
        for (key, has, fits) in keys {
            if has && !fits.contains(&kind) {
                let help = format!("`{key}` is for checks with {}", listed(fits));
                self.refuse(&path(key), format!("a check with `{kind}` has no `{key}`"), help);
            }
        }
        let (message, help) = match (kind, &check.expect) {
            ("sql", None) => (
                format!("the check `{name}` does not say what the query must return"),
                "add `expect`, like `expect = 0`",
            ),
            ("sql", Some(Expect::Answer(_))) => (
                format!("the check `{name}` compares the answer of a request, but has a query"),
                "a query's first column is compared with a number, a text, or true or false",
            ),
            ("get", Some(Expect::Boolean(_) | Expect::Integer(_) | Expect::Text(_))) => (
                format!("the check `{name}` compares a single value, but has a request"),
                "write `expect = { status = 200, json = { … } }`",
            ),
            _ => return,
        };
        self.refuse(&path("expect"), message, help);
    }
}
