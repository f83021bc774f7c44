//! Migration tools as apps have them, each the real one, against a real server.

mod back;
mod labels;
mod leftovers;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use piton_db::migrate::{Around, MigrateOptions, Migration, MigrationError, Migrations, State, Tool};
use piton_db::{Database, DbError, Report};
use piton_exec::{EnvValue, Secret};
use piton_testkit::postgres::Cluster;
use piton_testkit::tools::{self, FROM_ENVIRONMENT};
use piton_testkit::turns;
use tempfile::TempDir;

use super::{database, fresh, number, run as run_sql};

/// Quick attempts, so that a lock is given up soon.
const OPTIONS: MigrateOptions = MigrateOptions {
    lock_timeout: Duration::from_millis(300),
    attempts: 2,
    wait_for_other: Duration::from_secs(10),
};

/// One tool and how its files are written.
struct Kit {
    tool: Tool,
    /// The program, below the folder of tools or in `PATH`.
    program: &'static str,
    /// The folder of migrations.
    folder: &'static str,
    /// Writes what the tool wants beside its migrations.
    lay_out: fn(&Path),
    /// Writes the nth migration; returns its file.
    write: fn(&Path, u32, &str) -> PathBuf,
    /// What the tool calls the nth migration.
    name: fn(u32) -> String,
    /// The migrations of packages, which come before the app's own.
    packages: &'static [&'static str],
}

/// An app with its own database.
struct App {
    kit: Kit,
    dir: TempDir,
    cluster: &'static Cluster,
    db: Database,
    dbname: String,
    /// Whether the tool was proved to obey, which takes a run of it.
    proved: Cell<bool>,
}

impl App {
    async fn new(kit: Kit, dbname: &str) -> Option<Self> {
        // A tool takes a second to start.
        if !tools::is_there(kit.program) || !turns::is_of_this_half() {
            return None;
        }
        let (cluster, db) = fresh(dbname).await?;
        let dir = tempfile::tempdir().unwrap();
        (kit.lay_out)(dir.path());
        Some(Self { kit, dir, cluster, db, dbname: dbname.to_owned(), proved: Cell::new(false) })
    }

    fn write(&self, number: u32, sql: &str) -> PathBuf {
        (self.kit.write)(self.dir.path(), number, sql)
    }

    fn name(&self, number: u32) -> String {
        (self.kit.name)(number)
    }

    /// Puts what packages bring before the app's own.
    fn after_packages(&self, own: &[&str]) -> Vec<String> {
        self.kit.packages.iter().chain(own).map(ToString::to_string).collect()
    }

    /// Returns the states of migrations that are all applied.
    fn all_applied(&self, own: &[&str]) -> Vec<String> {
        self.after_packages(own).iter().map(|name| format!("{name} applied")).collect()
    }

    fn migrations(&self) -> Migrations {
        let app = self.dir.path().to_owned();
        Migrations { tool: self.kit.tool.clone(), folder: app.join(self.kit.folder), app }
    }

    fn around(&self) -> Around {
        let path = tools::path(&[self.cluster.bin_dir()]);
        let home = self.dir.path().display().to_string();
        let url = Secret::from(self.cluster.url(&self.dbname));
        let env = vec![
            ("PATH".into(), EnvValue::Plain(path)),
            ("HOME".into(), EnvValue::Plain(home)),
            // The same database by another name: it has to follow.
            ("DIRECT_URL".into(), EnvValue::Secret(url.clone())),
        ];
        Around { env, url, unproved: !self.proved.get() }
    }

    /// Applies; returns the names of what was applied, and the commands that ran.
    async fn apply(&self) -> Result<(Vec<String>, Vec<String>), DbError> {
        self.apply_to(&self.db).await
    }

    async fn apply_to(&self, db: &Database) -> Result<(Vec<String>, Vec<String>), DbError> {
        let mut ran = Vec::new();
        let mut report = |report| {
            if let Report::Ran(one) = report {
                ran.push(one.command);
            }
        };
        let applied =
            self.migrations().apply(db, &self.around(), OPTIONS, &mut report, async |_| Ok(())).await?;
        self.proved.set(true);
        Ok((applied.migrations, ran))
    }

    async fn failure(&self) -> MigrationError {
        match self.apply().await {
            Err(DbError::Migration(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the states of the folder's and the record's migrations, in short.
    async fn states(&self) -> Vec<String> {
        let states = self.migrations().status(&self.db).await.unwrap();
        states.iter().map(short).collect()
    }

    async fn refusal(&self) -> MigrationError {
        match self.migrations().may_begin(&self.db).await {
            Err(DbError::Migration(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    async fn count(&self, sql: &str) -> i64 {
        number(&self.db.connect().await.unwrap(), sql).await
    }

    async fn has(&self, table: &str) -> bool {
        self.count(&format!("select count(*) from pg_tables where tablename = '{table}'")).await == 1
    }
}

fn short(migration: &Migration) -> String {
    let state = match migration.state {
        State::Applied => "applied",
        State::Pending => "pending",
        State::Failed { .. } => "failed",
        State::HalfApplied { .. } => "half",
        State::Changed => "changed",
        State::Missing => "missing",
        State::Unknown => "unknown",
    };
    format!("{} {state}", migration.name)
}

fn put(path: PathBuf, text: &str) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// What every tool has to show: pending, applied one at a time, nothing to do, a lock given up without a trace, a server that is away.
async fn walk(app: &App) {
    let (one, two, three) = (app.name(1), app.name(2), app.name(3));
    app.write(1, "create table a (n int)");
    app.write(2, "create table b (n int)");
    assert_eq!(app.states().await, [format!("{one} pending"), format!("{two} pending")]);
    app.migrations().may_begin(&app.db).await.unwrap();

    let (applied, ran) = app.apply().await.unwrap();
    assert_eq!(applied, app.after_packages(&[&one, &two]));
    assert!(app.has("a").await && app.has("b").await);
    assert!(ran.iter().all(|command| command.contains("DATABASE_URL=•••")), "{ran:?}");
    assert_eq!(app.states().await, app.all_applied(&[&one, &two]));
    assert_eq!(app.apply().await.unwrap().0, [""; 0]);

    // A session holds what the third needs, whose text is longer than what is told of a failure.
    app.write(3, &format!("alter table a\n{}add column more int", "-- a word\n".repeat(20)));
    let mut holder = app.db.connect().await.unwrap();
    let held = holder.transaction().await.unwrap();
    held.batch_execute("lock table a in access exclusive mode").await.unwrap();
    let error = app.failure().await;
    assert!(matches!(&error, MigrationError::Locked { attempts: 2, .. }), "{error}");
    assert_eq!(app.states().await.pop().unwrap(), format!("{three} pending"), "nothing of it stays recorded");
    held.rollback().await.unwrap();
    assert_eq!(app.apply().await.unwrap().0, [three]);

    let mut away = app.db.clone();
    away.port = 1;
    assert!(matches!(app.migrations().status(&away).await, Err(DbError::Connect { .. })));
    assert!(matches!(app.apply_to(&away).await, Err(DbError::Connect { .. })));
}

/// A tool that takes its database from elsewhere is refused, and neither database is touched; `mended` it obeys.
async fn is_deaf(mut app: App, mended: impl FnOnce(&mut App)) {
    let copy = format!("{}_copy", app.dbname);
    app.cluster.create_database(&copy).await;
    let tables =
        "select count(*) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')";
    let copy = database(app.cluster, &copy);
    app.write(1, "create table a (n int)");
    let error = app.apply_to(&copy).await.unwrap_err();
    assert!(matches!(&error, DbError::Migration(MigrationError::Deaf { .. })), "{error:?}");
    assert!(error.to_string().contains("DATABASE_URL"), "{error}");
    assert_eq!(app.count(tables).await, 0);
    assert_eq!(number(&copy.connect().await.unwrap(), tables).await, 0);
    mended(&mut app);
    app.apply_to(&copy).await.unwrap();
    assert_eq!(app.count(tables).await, 0);
    assert!(number(&copy.connect().await.unwrap(), tables).await > 0);
}

fn alembic() -> Kit {
    Kit {
        tool: Tool::Alembic,
        program: "python/bin/alembic",
        folder: "migrations",
        lay_out: |dir| alembic_with(dir, FROM_ENVIRONMENT),
        write: |dir, number, sql| alembic_file(dir, number, &format!("op.execute(\"\"\"{sql}\"\"\")")),
        name: |number| format!("rev{number}"),
        packages: &[],
    }
}

fn alembic_with(dir: &Path, url: &str) {
    put(dir.join("alembic.ini"), "[alembic]\nscript_location = migrations\n");
    put(dir.join("migrations/env.py"), &tools::alembic_env(url));
}

fn alembic_file(dir: &Path, number: u32, body: &str) -> PathBuf {
    let before = (number > 1).then(|| format!("rev{}", number - 1));
    let text = tools::alembic_revision(&format!("rev{number}"), before.as_deref(), body);
    put(dir.join(format!("migrations/versions/{number}.py")), &text)
}

#[tokio::test]
async fn alembic_goes_revision_by_revision() {
    let Some(app) = App::new(alembic(), "alembic").await else { return };
    walk(&app).await;
    // In one transaction: nothing of a failure is kept.
    app.write(4, "create table d (n int); select 1/0");
    let error = app.failure().await;
    assert!(matches!(&error, MigrationError::Failed { trouble: None, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("division by zero") && text.ends_with("nothing of it was kept"), "{text}");
    assert_eq!(app.states().await.pop().unwrap(), "rev4 pending");
    // Outside of it the first statement stays.
    let body = "with op.get_context().autocommit_block():\n        op.execute('create table d (n int)')\n        op.execute('select 1/0')";
    alembic_file(app.dir.path(), 4, body);
    let error = app.failure().await;
    assert!(error.to_string().ends_with("some of it may be kept"), "{error}");
    assert!(matches!(error, MigrationError::Failed { unnoted: true, .. }));
    assert!(app.has("d").await);
    assert_eq!(app.migrations().unnoted(&app.db, "rev4").await.unwrap().as_deref(), Some("rev4"));
    // So it does before a COMMIT of its own, where the structure shows nothing of it.
    let body =
        "op.execute('insert into d values (1)')\n    op.execute('COMMIT')\n    op.execute('select 1/0')";
    alembic_file(app.dir.path(), 4, body);
    assert!(app.failure().await.to_string().ends_with("some of it may be kept"));
    assert_eq!(app.count("select count(*) from d").await, 1);
    // A person finishes it by hand.
    app.migrations().resolve(&app.db, "rev4", true).await.unwrap();
    assert_eq!(app.states().await.pop().unwrap(), "rev4 applied");
    assert_eq!(app.apply().await.unwrap().0, [""; 0]);
    let refused = app.migrations().resolve(&app.db, "rev4", false).await.unwrap_err();
    assert!(refused.to_string().contains("it is applied"), "{refused}");
    // The commit has fewer revisions than the database: which of the others rev4 stands for, its file alone says.
    fs::remove_file(app.dir.path().join("migrations/versions/4.py")).unwrap();
    assert_eq!(app.states().await, ["rev1 unknown", "rev2 unknown", "rev3 unknown", "rev4 missing"]);
    assert!(matches!(app.refusal().await, MigrationError::NotInFolder { name } if name == "rev4"));
    let refused = app.migrations().resolve(&app.db, "rev1", true).await.unwrap_err();
    assert!(refused.to_string().contains("names one that no file has"), "{refused}");
    let refused = app.migrations().resolve(&app.db, "rev4", false).await.unwrap_err();
    assert!(refused.to_string().contains("alembic stamp"), "{refused}");
}

#[tokio::test]
async fn alembic_with_two_heads() {
    let Some(app) = App::new(alembic(), "alembic_heads").await else { return };
    for (file, revision, needs, table) in [
        ("1", "root", "None", "r"),
        ("2", "left", "'root'", "l"),
        ("3", "right", "'root'", "m"),
        ("4", "late", "('left',)", "n"),
    ] {
        let text = format!(
            "from alembic import op\nrevision = '{revision}'\ndown_revision = {needs}\ndef upgrade():\n    op.execute('create table {table} ()')\n"
        );
        put(app.dir.path().join(format!("migrations/versions/{file}.py")), &text);
    }
    let (applied, _) = app.apply().await.unwrap();
    assert_eq!(applied, ["root", "left", "late", "right"]);
    assert_eq!(app.count("select count(*) from alembic_version").await, 2);
    assert!(app.states().await.iter().all(|state| state.ends_with(" applied")));
}

#[tokio::test]
async fn an_env_py_with_an_address_of_its_own_is_refused() {
    let Some(app) = App::new(alembic(), "alembic_deaf").await else { return };
    app.write(1, "create table a (n int)");
    for (url, wanted) in [
        (
            "os.environ[\"NOT_THERE\"]".to_owned(),
            ["ended with exit code 1 and did not ask", "KeyError: 'NOT_THERE'"],
        ),
        (
            format!("{FROM_ENVIRONMENT} + \"?sslmode=require\""),
            ["wants TLS whatever the URL says", "DATABASE_URL"],
        ),
    ] {
        alembic_with(app.dir.path(), &url);
        let error = app.failure().await;
        let said = error.to_string();
        assert!(matches!(error, MigrationError::Deaf { .. }), "{said}");
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{said}");
    }
    alembic_with(app.dir.path(), &format!("\"{}\"", app.cluster.url(&app.dbname)));
    is_deaf(app, |app| alembic_with(app.dir.path(), FROM_ENVIRONMENT)).await;
}

fn golang() -> Kit {
    Kit {
        tool: Tool::GolangMigrate,
        program: "golang-migrate/migrate",
        folder: "migrations",
        lay_out: |dir| fs::create_dir(dir.join("migrations")).unwrap(),
        write: |dir, number, sql| {
            let file = |kind: &str| dir.join(format!("migrations/{number:06}_step.{kind}.sql"));
            put(file("down"), "select 1");
            put(file("up"), sql)
        },
        name: |number| format!("{number:06}_step"),
        packages: &[],
    }
}

#[tokio::test]
async fn golang_migrate_is_dirty_only_where_something_may_be_kept() {
    let Some(app) = App::new(golang(), "golang").await else { return };
    walk(&app).await;
    let dirty = "select count(*) from schema_migrations where dirty";
    // The server takes the file as one transaction.
    app.write(4, "create table d (n int); select 1/0");
    let error = app.failure().await.to_string();
    assert!(error.contains("division by zero") && error.ends_with("nothing of it was kept"), "{error}");
    assert_eq!(app.count(dirty).await, 0);
    assert_eq!(app.states().await.pop().unwrap(), "000004_step pending");
    // What cannot run in a transaction may leave something.
    run_sql(&app.db, "create table twice (n int); insert into twice values (1), (1)").await;
    app.write(4, "create unique index concurrently once on twice (n)");
    let error = app.failure().await.to_string();
    let left =
        "some of it may be kept; index once is invalid: DROP INDEX CONCURRENTLY once, and build it again";
    assert!(error.ends_with(left), "{error}");
    assert_eq!(app.count(dirty).await, 1);
    assert_eq!(app.states().await.pop().unwrap(), "000004_step half");
    assert!(matches!(app.refusal().await, MigrationError::Unclear { name, .. } if name == "000004_step"));
    run_sql(&app.db, "drop index once; delete from twice").await;
    app.migrations().resolve(&app.db, "000004_step", false).await.unwrap();
    assert_eq!(app.count("select version from schema_migrations where not dirty").await, 3);
    // It waits for everybody who began before, in nobody's way, and longer than it may wait for a lock.
    let mut older = app.db.connect().await.unwrap();
    let begun = older.transaction().await.unwrap();
    begun.batch_execute("select count(*) from twice").await.unwrap();
    let ends = async {
        tokio::time::sleep(3 * OPTIONS.lock_timeout).await;
        begun.rollback().await.unwrap();
    };
    let (applied, ()) = tokio::join!(app.apply(), ends);
    assert_eq!(applied.unwrap().0, ["000004_step"]);
    // Killed between the file and its end, and a person sees that all of it is there.
    run_sql(&app.db, "update schema_migrations set dirty = true").await;
    app.migrations().resolve(&app.db, "000004_step", true).await.unwrap();
    assert_eq!(app.states().await.pop().unwrap(), "000004_step applied");
    fs::remove_file(app.dir.path().join("migrations/000004_step.up.sql")).unwrap();
    assert_eq!(app.states().await.pop().unwrap(), "4 missing");
    assert!(matches!(app.refusal().await, MigrationError::NotInFolder { name } if name == "4"));
}

fn prisma() -> Kit {
    Kit {
        tool: Tool::Prisma,
        program: "prisma/node_modules/.bin/prisma",
        folder: "prisma/migrations",
        lay_out: prisma_app,
        write: |dir, number, sql| {
            put(dir.join(format!("prisma/migrations/2026010{number}_step/migration.sql")), sql)
        },
        name: |number| format!("2026010{number}_step"),
        packages: &[],
    }
}

fn prisma_app(dir: &Path) {
    let packages = fs::canonicalize(tools::folder().join("prisma/node_modules")).unwrap();
    std::os::unix::fs::symlink(packages, dir.join("node_modules")).unwrap();
    put(dir.join("prisma/schema.prisma"), tools::PRISMA_SCHEMA);
    put(dir.join("prisma/migrations/migration_lock.toml"), "provider = \"postgresql\"\n");
    prisma_config(dir, "process.env.DATABASE_URL");
}

fn prisma_config(dir: &Path, url: &str) {
    put(dir.join("prisma.config.ts"), &tools::prisma_config(url));
}

#[tokio::test]
async fn prisma_failures_stay_until_a_person_has_looked() {
    let Some(app) = App::new(prisma(), "prisma").await else { return };
    let (one, two) = (app.name(1), app.name(2));
    let first = app.write(1, "create table a (n int)");
    app.write(2, "create table b (n int)");
    let (mut ran, mut steps) = (Vec::new(), Vec::new());
    let mut report = |report| match report {
        Report::Ran(one) => ran.push((one.command, one.code)),
        Report::Progress(progress) => steps.push(progress.what),
        Report::Said(_) => {}
    };
    let mut asked = Vec::new();
    let may_begin = async |name: Option<&str>| {
        asked.extend(name.map(str::to_owned));
        Ok(())
    };
    let applied =
        app.migrations().apply(&app.db, &app.around(), OPTIONS, &mut report, may_begin).await.unwrap();
    app.proved.set(true);
    assert_eq!(applied.migrations, [one.as_str(), &two]);
    assert_eq!(asked, steps, "before it begins");
    // The proof asks first; then one run applies both, and nobody sees where one ends and the other begins.
    assert_eq!(steps, [format!("{one}, {two}")]);
    // The proof's own run is told as well: its server has refused it, or it was ended.
    assert!(
        matches!(&ran[..], [(proof, 1 | 137), (run, 0)] if proof.ends_with("migrate status") && run.ends_with("migrate deploy")),
        "{ran:?}"
    );
    let noted = "select count(*) from _prisma_migrations where checksum =";
    let sum = "(select encode(sha256('create table a (n int)'), 'hex'))";
    assert_eq!(app.count(&format!("{noted} {sum}")).await, 1);

    // Structure alone, and none of it there: nothing was kept, and the failed row is rolled back as `migrate resolve` does it.
    let open = "select count(*) from _prisma_migrations where finished_at is null and rolled_back_at is null";
    app.write(3, "create table a (n int)");
    assert!(app.failure().await.to_string().ends_with("nothing of it was kept"));
    assert_eq!(app.count(open).await, 0);
    // Nor of one that could not get its lock, as often as it is tried.
    app.write(3, "alter table a add column more int");
    let mut holder = app.db.connect().await.unwrap();
    let held = holder.transaction().await.unwrap();
    held.batch_execute("lock table a in access exclusive mode").await.unwrap();
    let error = app.failure().await;
    assert!(matches!(&error, MigrationError::Locked { attempts: 2, .. }), "{error}");
    assert_eq!(app.count(open).await, 0);
    held.rollback().await.unwrap();
    // This engine sends statement by statement: the first stays.
    app.write(3, "create table d (n int); insert into d values (1); select 1/0");
    assert!(app.failure().await.to_string().ends_with("some of it may be kept"));
    assert_eq!((app.count(open).await, app.has("d").await), (1, true));
    assert_eq!(app.states().await.pop().unwrap(), format!("{} half", app.name(3)));
    assert!(app.refusal().await.to_string().contains("division by zero"));
    app.migrations().resolve(&app.db, &app.name(3), true).await.unwrap();
    assert_eq!(app.count(open).await, 0);
    assert!(app.states().await.iter().all(|state| state.ends_with(" applied")));
    app.migrations().may_begin(&app.db).await.unwrap();

    // Other line ends are the same file; another word is not.
    fs::write(&first, "create table a (m int)").unwrap();
    assert_eq!(app.states().await[0], format!("{one} changed"));
    assert!(matches!(app.refusal().await, MigrationError::Changed { name } if name == one));
    // One that was squashed stays in the record; one after all that the commit has is a newer release's.
    fs::remove_dir_all(first.parent().unwrap()).unwrap();
    assert_eq!(app.states().await.pop().unwrap(), format!("{one} missing"));
    app.migrations().may_begin(&app.db).await.unwrap();
    let third = app.name(3);
    fs::remove_dir_all(app.dir.path().join(format!("prisma/migrations/{third}"))).unwrap();
    assert!(matches!(app.refusal().await, MigrationError::NotInFolder { name } if name == third));
    assert!(matches!(app.failure().await, MigrationError::NotInFolder { name } if name == third));
    // A person has taken it out by hand: Prisma takes it for one that was never applied.
    app.migrations().resolve(&app.db, &third, false).await.unwrap();
    app.migrations().may_begin(&app.db).await.unwrap();
    run_sql(&app.db, "drop table d").await;
    app.write(3, "create table d (n int)");
    assert_eq!(
        app.states().await,
        [format!("{two} applied"), format!("{third} pending"), format!("{one} missing")]
    );
    assert_eq!(app.apply().await.unwrap().0, [third]);
}

#[tokio::test]
async fn an_adapter_with_an_address_of_its_own_is_refused() {
    let Some(app) = App::new(prisma(), "prisma_deaf").await else { return };
    prisma_config(app.dir.path(), &format!("\"{}\"", app.cluster.url(&app.dbname)));
    is_deaf(app, |app| prisma_config(app.dir.path(), "process.env.DATABASE_URL")).await;
}

fn django() -> Kit {
    Kit {
        tool: Tool::Django,
        program: "python/bin/django-admin",
        folder: ".",
        lay_out: |dir| django_with(dir, FROM_ENVIRONMENT),
        write: |dir, number, sql| {
            django_file(dir, number, "", &format!("migrations.RunSQL(\"\"\"{sql}\"\"\")"))
        },
        name: |number| format!("shop.000{number}_step"),
        packages: &["contenttypes.0001_initial", "contenttypes.0002_remove_content_type_name"],
    }
}

fn django_with(dir: &Path, url: &str) {
    django_settings(dir, url, &["django.contrib.contenttypes"]);
    put(dir.join("manage.py"), tools::DJANGO_MANAGE);
    put(dir.join("shop/__init__.py"), "");
    put(dir.join("shop/migrations/__init__.py"), "");
}

fn django_settings(dir: &Path, url: &str, packages: &[&str]) {
    put(dir.join("settings.py"), &tools::django_settings(url, packages));
}

fn django_file(dir: &Path, number: u32, more: &str, operation: &str) -> PathBuf {
    let before = (number > 1).then(|| format!("000{}_step", number - 1));
    let text = tools::django_migration(before.as_deref(), more, operation);
    put(dir.join(format!("shop/migrations/000{number}_step.py")), &text)
}

#[tokio::test]
async fn django_goes_through_packages_as_well() {
    let Some(app) = App::new(django(), "django").await else { return };
    walk(&app).await;
    assert!(app.has("django_content_type").await, "what a package brings is applied, too");
    app.write(4, "create table d (n int); select 1/0");
    let error = app.failure().await.to_string();
    assert!(error.contains("division by zero") && error.ends_with("nothing of it was kept"), "{error}");
    assert!(!app.has("d").await);
    // Without a transaction it leaves no trace in its table.
    let operations = "migrations.RunSQL('create table d (n int)'), migrations.RunSQL('select 1/0')";
    django_file(app.dir.path(), 4, "atomic = False", operations);
    let error = app.failure().await;
    assert!(error.to_string().ends_with("some of it may be kept"), "{error}");
    assert!(matches!(error, MigrationError::Failed { name, unnoted: true, .. } if name == "shop.0004_step"));
    assert!(app.has("d").await);
    assert_eq!(app.states().await.pop().unwrap(), "shop.0004_step pending");
    app.migrations().resolve(&app.db, "shop.0004_step", true).await.unwrap();
    assert_eq!(app.apply().await.unwrap().0, [""; 0]);
    fs::remove_file(app.dir.path().join("shop/migrations/0004_step.py")).unwrap();
    assert_eq!(app.states().await.pop().unwrap(), "shop.0004_step missing");
    assert!(matches!(app.refusal().await, MigrationError::NotInFolder { name } if name == "shop.0004_step"));
    // Of a package nobody can tell which release is newer.
    let newer =
        "insert into django_migrations (app, name, applied) values ('contenttypes', '0003_newer', now())";
    run_sql(&app.db, &format!("delete from django_migrations where name = '0004_step'; {newer}")).await;
    app.migrations().may_begin(&app.db).await.unwrap();
    assert_eq!(app.apply().await.unwrap().0, [""; 0]);
    assert!(!app.dir.path().join("shop/__pycache__").exists(), "the build is left as it was");
}

#[tokio::test]
async fn what_a_package_of_django_has_left_is_never_said_to_be_nothing() {
    let Some(app) = App::new(django(), "django_package").await else { return };
    app.write(1, "create table a (n int)");
    app.apply().await.unwrap();
    let migrations = app.migrations();
    assert!(!migrations.tool.has_all_files());
    app.cluster.create_database("django_package_golden").await;
    let golden = database(app.cluster, "django_package_golden");
    app.apply_to(&golden).await.unwrap();
    let before = migrations.recorded(&app.db).await.unwrap();
    assert_eq!(before.len(), 3, "{before:?}");
    // Rows may be left where the record and the structure are as before.
    assert!(!migrations.left_nothing(&app.db, &golden, &before, true).await.unwrap());

    let packages = ["django.contrib.contenttypes", "django.contrib.auth"];
    django_settings(app.dir.path(), FROM_ENVIRONMENT, &packages);
    // Nobody can see whether what it made before it failed would be gone.
    run_sql(&app.db, "create table auth_group (n int)").await;
    assert!(app.failure().await.to_string().ends_with("some of it may be kept"));
    run_sql(&app.db, "drop table auth_group").await;
    let (applied, _) = app.apply().await.unwrap();
    assert!(applied.len() > 5 && applied.iter().all(|name| name.starts_with("auth.")), "{applied:?}");
    assert!(!migrations.left_nothing(&app.db, &golden, &before, true).await.unwrap());
    assert!(app.states().await.contains(&"auth.0001_initial applied".to_owned()));
}

#[tokio::test]
async fn what_a_script_would_change_beyond_its_database_is_refused_before_anything_runs() {
    for (kit, name) in [(golang(), "golang_role"), (prisma(), "prisma_role"), (sqitch(), "sqitch_role")] {
        let Some(app) = App::new(kit, name).await else { continue };
        app.write(1, "create table a (n int)");
        app.write(2, &format!("select 1;\ncreate role {name}"));
        let error = app.failure().await;
        assert!(matches!(&error, MigrationError::Script { line: 2 | 3, .. }), "{error}");
        assert!(error.to_string().contains("all databases of the server share"), "{error}");
        let made = format!("select count(*) from pg_roles where rolname = '{name}'");
        assert_eq!((app.has("a").await, app.count(&made).await), (false, 0));
    }
}

#[tokio::test]
async fn django_settings_with_an_address_of_their_own_are_refused() {
    let Some(app) = App::new(django(), "django_deaf").await else { return };
    django_with(app.dir.path(), &format!("\"{}\"", app.cluster.url(&app.dbname)));
    is_deaf(app, |app| django_with(app.dir.path(), FROM_ENVIRONMENT)).await;
}

fn sqitch() -> Kit {
    Kit {
        tool: Tool::Sqitch,
        program: "sqitch",
        folder: ".",
        lay_out: |dir| {
            put(
                dir.join("sqitch.conf"),
                "[core]\n\tengine = pg\n[user]\n\tname = Shop\n\temail = shop@example.org\n",
            );
            put(dir.join("sqitch.plan"), "%syntax-version=1.0.0\n%project=shop\n\n");
        },
        write: |dir, number, sql| {
            let plan = dir.join("sqitch.plan");
            let line = format!("step{number} 2026-01-0{number}T00:00:00Z Shop <shop@example.org>\n");
            let text = fs::read_to_string(&plan).unwrap();
            if !text.contains(&line) {
                fs::write(&plan, text + &line).unwrap();
            }
            put(dir.join(format!("deploy/step{number}.sql")), &format!("BEGIN;\n{sql};\nCOMMIT;\n"))
        },
        name: |number| format!("step{number}"),
        packages: &[],
    }
}

#[tokio::test]
async fn sqitch_deploys_change_by_change() {
    let Some(app) = App::new(sqitch(), "sqitch").await else { return };
    walk(&app).await;
    app.write(4, "create table d (n int); select 1/0");
    let error = app.failure().await.to_string();
    assert!(error.contains("division by zero") && error.ends_with("nothing of it was kept"), "{error}");
    assert_eq!(app.states().await.pop().unwrap(), "step4 pending");
    // Without BEGIN and COMMIT each statement is one of its own.
    let script = app.dir.path().join("deploy/step4.sql");
    fs::write(&script, "create table d (n int);\nselect 1/0;\n").unwrap();
    assert!(app.failure().await.to_string().ends_with("some of it may be kept"));
    assert_eq!(app.states().await.pop().unwrap(), "step4 half");
    let refused = app.migrations().resolve(&app.db, "step4", true).await.unwrap_err();
    assert!(refused.to_string().contains("sqitch deploy --log-only"), "{refused}");
    assert!(matches!(app.refusal().await, MigrationError::Unclear { name, .. } if name == "step4"));
    run_sql(&app.db, "drop table d").await;
    app.migrations().resolve(&app.db, "step4", false).await.unwrap();
    fs::write(&script, "create table d (n int);\n").unwrap();
    assert_eq!(app.apply().await.unwrap().0, ["step4"]);
    app.write(1, "create table other (n int)");
    assert_eq!(app.states().await[0], "step1 changed");
    assert!(matches!(app.refusal().await, MigrationError::Changed { name } if name == "step1"));
    app.write(1, "create table a (n int)");
    let plan = app.dir.path().join("sqitch.plan");
    let text = fs::read_to_string(&plan).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("step4")).collect();
    fs::write(&plan, without.join("\n") + "\n").unwrap();
    assert_eq!(app.states().await.pop().unwrap(), "step4 missing");
    assert!(matches!(app.refusal().await, MigrationError::NotInFolder { name } if name == "step4"));
    // Another project's changes of the same name are none of it.
    let of_another = "insert into sqitch.projects (project, creator_name, creator_email) values ('other', 'x', 'x');
        insert into sqitch.events (event, change_id, change, project, committer_name, committer_email, planned_at,
                                   planner_name, planner_email)
        select 'fail', 'other', 'step4', 'other', 'x', 'x', now(), 'x', 'x'";
    run_sql(&app.db, of_another).await;
    app.migrations().resolve(&app.db, "step4", false).await.unwrap();
    app.migrations().may_begin(&app.db).await.unwrap();
    assert_eq!(app.count("select count(*) from sqitch.events where project = 'other'").await, 1);
    run_sql(&app.db, "drop table d").await;
    fs::write(&plan, text).unwrap();
    assert_eq!(app.apply().await.unwrap().0, ["step4"]);
}

#[tokio::test]
async fn what_a_newer_release_of_sqitch_has_reworked_refuses_the_older_one() {
    let Some(app) = App::new(sqitch(), "sqitch_rework").await else { return };
    app.write(1, "create table a (n int)");
    app.apply().await.unwrap();
    let (plan, script) = (app.dir.path().join("sqitch.plan"), app.dir.path().join("deploy/step1.sql"));
    let older = (fs::read_to_string(&plan).unwrap(), fs::read_to_string(&script).unwrap());
    let rework = "@v1 2026-02-01T00:00:00Z Shop <shop@example.org>\n\nstep1 [step1@v1] 2026-02-02T00:00:00Z Shop <shop@example.org>\n";
    fs::write(&plan, older.0.clone() + rework).unwrap();
    fs::write(app.dir.path().join("deploy/step1@v1.sql"), &older.1).unwrap();
    // It failed there, or it went well.
    for (sql, state) in [("selec 1", "half"), ("alter table a add more int", "missing")] {
        fs::write(&plan, older.0.clone() + rework).unwrap();
        fs::write(&script, format!("{sql};\n")).unwrap();
        let _ = app.apply().await;
        fs::write(&plan, &older.0).unwrap();
        fs::write(&script, &older.1).unwrap();
        assert_eq!(app.states().await, ["step1 applied".to_owned(), format!("step1@HEAD {state}")]);
        let refusal = app.refusal().await.to_string();
        assert!(refusal.contains("step1@HEAD"), "{refusal}");
        // A person takes it out; the one before it stays.
        app.migrations().resolve(&app.db, "step1@HEAD", false).await.unwrap();
        assert_eq!(app.states().await, ["step1 applied"]);
        assert_eq!(app.apply().await.unwrap().0, [""; 0]);
    }
}

/// Commands that know their database by the environment alone, as a framework's do.
fn commands() -> Kit {
    let line = |sql: &str| vec!["sh".into(), "-c".into(), sql.to_owned()];
    Kit {
        tool: Tool::Commands {
            apply: line("psql -q -v ON_ERROR_STOP=1 -f up.sql \"$DATABASE_URL\""),
            status: line(
                "test $(psql -At -c \"select count(*) from pg_tables where tablename = 'a'\" \"$DATABASE_URL\") = 1",
            ),
        },
        program: "sh",
        folder: ".",
        lay_out: |_| {},
        write: |dir, _, sql| put(dir.join("up.sql"), sql),
        name: |_| String::new(),
        packages: &[],
    }
}

#[tokio::test]
async fn commands_are_believed_by_their_exit_code() {
    let Some(app) = App::new(commands(), "commands").await else { return };
    app.write(1, "select 1");
    let error = app.failure().await.to_string();
    assert!(error.contains("pending still"), "{error}");
    app.write(1, "create table b (n int); select 1/0");
    let error = app.failure().await.to_string();
    assert!(error.contains("division by zero") && error.ends_with("some of it may be kept"), "{error}");
    app.write(1, "create table a (n int)");
    assert_eq!(app.apply().await.unwrap().0.len(), 1);
    assert_eq!(app.apply().await.unwrap().0.len(), 0);
}

#[tokio::test]
async fn commands_with_an_address_of_their_own_are_refused() {
    let mut kit = commands();
    let Some(cluster) = Cluster::shared() else { return };
    let url = cluster.url("commands_deaf");
    kit.tool = Tool::Commands {
        apply: vec!["psql".into(), "-f".into(), "up.sql".into(), url.clone()],
        status: vec!["psql".into(), "-c".into(), "select 1".into(), url],
    };
    let Some(app) = App::new(kit, "commands_deaf").await else { return };
    is_deaf(app, |app| app.kit.tool = commands().tool).await;
}
