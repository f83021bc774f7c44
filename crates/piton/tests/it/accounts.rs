//! Several operators of one machine: one account runs the releases, and each person is named.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::live_stage;
use piton_testkit::postgres::skip;

/// An account that every Linux has and that owns nothing.
const NOBODY: u32 = 65534;

/// Runs a copy of piton that every account can reach, under an account that owns nothing.
fn as_nobody(folder: &Path, root: &Path, args: &[&str]) -> Output {
    let piton = folder.join("piton");
    if !piton.exists() {
        // By a process of its own: a file that this one has open for writing, and with it every process that another
        // test starts meanwhile, cannot be run ("Text file busy").
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_piton")).arg(&piton).status().unwrap();
        assert!(copied.success(), "{copied}");
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(piton);
    command.args(args).current_dir(root).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.uid(NOBODY).gid(NOBODY).output().unwrap()
}

#[test]
fn another_account_is_told_whose_releases_these_are() {
    if !rustix::process::geteuid().is_root() {
        return skip("root to run piton under another account");
    }
    let Some(stage) = live_stage() else { return };
    for args in [&["deploy", "production"][..], &["status"], &["resume", "--all"], &["log", "production"]] {
        let said = as_nobody(stage.folder(), &stage.root(), args);
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(if args[0] == "resume" { 1 } else { 2 }), "{args:?}: {words}");
        assert!(words.contains("run under the account root"), "{args:?}: {words}");
        assert!(words.contains("sudo -u root piton"), "{args:?}: {words}");
    }
    stage.piton(&["status", "production"]).expect(0);
}

#[test]
fn who_came_by_sudo_is_named() {
    let Some(mut stage) = live_stage() else { return };
    stage.configure(|settings| settings.watch = "10m");
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[("SUDO_USER", "ada")]);
    stage.eventually("the watch", || stage.is_running("production", "watch"));
    stage.finish(load);
    assert_eq!(stage.status("production")["release"]["begun_by"], "ada");
    let second = stage.piton_with_env(&["resume", "production"], &[("SUDO_USER", "bob")]);
    second.expect(2).says("production is being released by ada");
    stage.piton_with_env(&["abort", "production"], &[("SUDO_USER", "bob")]).expect(0);
    deploy.wait().expect(3).says("asked by bob");
}
