//! The command line as clap reads it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Takes a web app and its database from staging to production and back.
///
/// Every release drives an anchor (a proved backup) before it moves, and shows what it will run before it runs.
#[derive(Debug, Parser)]
#[command(
    name = "piton",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// The project's folder; piton.toml is looked for in it and above it
    #[arg(
        short = 'C',
        long,
        global = true,
        default_value = ".",
        hide_default_value = true,
        value_name = "DIR"
    )]
    pub(crate) dir: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a piton.toml from what is found in the folder
    Init,
    /// Print the JSON Schema of piton.toml
    Schema,
    /// Show an environment's settings and where each value comes from
    Config(Environment),
    /// Show what a release would do, in commands a person knows, and how each step is undone
    Plan(Plan),
    /// Release a commit to an environment
    ///
    /// Stays in the foreground until the watch is over; Ctrl-C leaves the release to be resumed, --detach lets it run by itself.
    Deploy(Deploy),
    /// Follow a release that runs elsewhere
    Watch(Environment),
    /// Show what serves and where a release stands
    Status(Status),
    /// List a release's events
    Log(Log),
    /// Carry on a release from where it stands
    Resume(Resume),
    /// Undo a release that is under way
    ///
    /// Takes every step back, at whichever it stands: traffic first. A migration goes back with every later write, as its rehearsal
    /// has shown, and stays where one would be lost.
    Abort(Yes),
    /// Keep a release at its present share of traffic until `continue`
    Hold(Environment),
    /// Let a release go on that holds
    ///
    /// Lifts a hold that a person has set. Where nobody has, the present step ends with its time although the gate has seen too
    /// little; with --now at once.
    Continue(Continue),
    /// Send traffic back to the release before, then stop the new one
    ///
    /// As abort; and with --database a migration that would lose rows waits for a word: the traffic goes back at once, then the rows
    /// that would leave are counted, and a question is asked. A release that has settled cannot go back this way: deploy an older
    /// commit with --ref.
    ///
    /// With --to an older database takes the live one's place: a backup is restored and proved beside it, what was written since is
    /// counted, and refused without --accept-loss. The rows that are lost are written into a file first, and the replaced
    /// database is kept.
    Rollback(Rollback),
    /// Take a backup of an environment's database and prove it
    ///
    /// Dumps at one snapshot, restores into a golden copy, compares every row and object, and drops the copy. A release does this by
    /// itself.
    Backup(Order),
    /// List an environment's backups
    Backups(Environment),
    /// Prove a backup once more: restore it into a golden copy and compare every row and object
    Prove(Prove),
    /// Restore a backup into a new database beside the live one, and prove it
    Restore(Restore),
    /// Make an environment's database anew from the environment that it takes its data from
    ///
    /// As a release does it: a proved backup, the release's migrations tried on a copy, requests held while the databases change
    /// places.
    Clone(Order),
    /// List the migrations with their states, or record one that stopped half-way as applied or not
    Migration(Migration),
    /// Run an environment's traffic proxy (releases start it by themselves)
    Proxy(Proxy),
}

impl Command {
    /// Tells whether stdout belongs to JSON.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Config(args) | Self::Watch(args) | Self::Hold(args) => args.json,
            Self::Continue(args) => args.target.json,
            Self::Plan(args) => args.target.json,
            Self::Deploy(args) => args.target.json,
            Self::Status(args) => args.json,
            Self::Log(args) => args.json,
            Self::Resume(args) => args.json,
            Self::Abort(args) => args.target.json,
            Self::Rollback(args) => args.target.json,
            Self::Migration(args) => args.json,
            Self::Backups(args) => args.json,
            Self::Backup(args) | Self::Clone(args) => args.target.json,
            Self::Prove(args) => args.order.target.json,
            Self::Restore(args) => args.order.target.json,
            Self::Init | Self::Schema | Self::Proxy(_) => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Environment {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: String,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Order {
    #[command(flatten)]
    pub(crate) target: Environment,
    /// Run it in a process of its own once its guards let it pass, and return
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prove {
    #[command(flatten)]
    pub(crate) order: Order,
    /// A backup's identifier or the end of it, or `latest`
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) order: Order,
    /// A backup's identifier or the end of it, or `latest`
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    /// The name of the new database, on the environment's own server
    #[arg(long, value_name = "DATABASE")]
    pub(crate) into: String,
    /// A new folder for the backup's files
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Continue {
    #[command(flatten)]
    pub(crate) target: Environment,
    /// End the present step before its time; in the last one, that closes the way back
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) target: Environment,
    /// The commit, tag or branch to release
    #[arg(long = "ref", default_value = "HEAD", value_name = "REF")]
    pub(crate) reference: String,
    /// Show every command
    #[arg(long)]
    pub(crate) commands: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    #[command(flatten)]
    pub(crate) target: Environment,
    /// The commit, tag or branch to release
    #[arg(long = "ref", default_value = "HEAD", value_name = "REF")]
    pub(crate) reference: String,
    /// Run the release in a process of its own once its guards let it pass, and return
    #[arg(long)]
    pub(crate) detach: bool,
    /// Leave a failed release standing for a look, to be resumed or aborted
    #[arg(long)]
    pub(crate) stay: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The environment; all of them when none is named
    #[arg(value_name = "ENV")]
    pub(crate) environment: Option<String>,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// A release's identifier or the end of it, or an environment for its latest release
    #[arg(value_name = "RELEASE|ENV")]
    pub(crate) what: Option<String>,
    /// Check that no event was altered, removed or inserted
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The environment
    #[arg(value_name = "ENV", required_unless_present = "all")]
    pub(crate) environment: Option<String>,
    /// Every environment: what served is started again, and each release is carried on in a process of its own
    #[arg(long, conflicts_with = "environment")]
    pub(crate) all: bool,
    /// Give up the way back, because the release before cannot run: all traffic to the new one, whatever the gate says
    #[arg(long, requires = "environment")]
    pub(crate) forward: bool,
    /// Carry it on in a process of its own, and return
    #[arg(long, requires = "environment", conflicts_with_all = ["forward", "lease"])]
    pub(crate) detach: bool,
    /// The token of the lease that the process which started this one hands over
    #[arg(long, hide = true, requires = "environment", conflicts_with = "forward")]
    pub(crate) lease: Option<i64>,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Yes {
    #[command(flatten)]
    pub(crate) target: Environment,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) target: Environment,
    /// Put the database back, too, also where rows would be lost by it: they are counted, and kept beside it
    #[arg(long)]
    pub(crate) database: bool,
    /// Put an older database in place: a backup's identifier or the end of it, `latest`, or the name of a database that was kept
    /// when it was replaced
    #[arg(long, value_name = "BACKUP", conflicts_with = "database")]
    pub(crate) to: Option<String>,
    /// How many writes may be lost by that; none without it
    #[arg(long, value_name = "N", requires = "to", default_value_t = 0, hide_default_value = true)]
    pub(crate) accept_loss: u64,
    /// Run it in a process of its own once its guards let it pass, and return
    #[arg(long, requires = "to")]
    pub(crate) detach: bool,
    /// Do not ask; the rows are counted and told all the same
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Migration {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: String,
    /// The migration to record; without it all are listed, each with its state
    #[arg(value_name = "NAME", requires = "stands")]
    pub(crate) name: Option<String>,
    /// All of it is in the database: it is not run again
    #[arg(long, group = "stands", requires = "name")]
    pub(crate) applied: bool,
    /// Nothing of it is in the database: it is run from its beginning
    #[arg(long, group = "stands", requires = "name")]
    not_applied: bool,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// The folder for the control socket and the state
    #[arg(long = "state", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// Where to take traffic
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
}
