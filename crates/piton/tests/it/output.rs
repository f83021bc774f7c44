//! What cannot be printed: the exit code stays that of the command, and lost data are a failure.

use std::fs::File;
use std::process::{Command, Output, Stdio};

/// Runs piton in a folder that is no project, with its stdout where nothing can be written.
fn run(args: &[&str], stdout: impl Into<Stdio>) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_piton"));
    command.args(args).current_dir(folder.path()).env("NO_COLOR", "1").stdout(stdout);
    let Output { status, stderr, .. } = command.output().expect("piton runs");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn full() -> File {
    File::options().write(true).open("/dev/full").expect("/dev/full")
}

/// A pipe whose reader went away.
fn closed() -> std::io::PipeWriter {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer
}

#[test]
fn a_refusal_stays_a_refusal() {
    let args = ["config", "production", "--json"];
    let (code, said) = run(&args, full());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("piton.toml") && said.contains("could not be written to stdout"), "{said}");
    let (code, said) = run(&args, closed());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("piton.toml") && !said.contains("stdout"), "{said}");
}

#[test]
fn data_that_are_lost_are_a_failure_and_a_reader_that_left_is_none() {
    for args in [&["schema"][..], &["--help"], &["--version"]] {
        let (code, said) = run(args, full());
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.contains("could not be written to stdout") && said.contains("No space left"), "{said}");
        assert_eq!(run(args, closed()), (Some(0), String::new()), "{args:?}");
    }
}

/// Whoever lets Piton write a piton.toml is told of secrets that the next commit would hold.
#[test]
fn a_file_with_secrets_that_git_would_take_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(folder.path()).output().expect(program);
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let init = || {
        let said = run(env!("CARGO_BIN_EXE_piton"), &["init"]);
        std::fs::remove_file(folder.path().join("piton.toml")).expect("a piton.toml");
        said
    };
    std::fs::write(folder.path().join(".env.production"), "SECRET=1\n").expect("a file");
    assert!(!init().contains("warning"), "there is no repository");
    run("git", &["init", "--quiet"]);
    assert!(init().contains("warning: git does not ignore .env.production, which holds secrets"));
    std::fs::write(folder.path().join(".gitignore"), ".env.*\n").expect("a file");
    assert!(!init().contains("warning"));
    run("git", &["add", "--force", ".env.production"]);
    assert!(init().contains("git rm --cached .env.production"));
}
