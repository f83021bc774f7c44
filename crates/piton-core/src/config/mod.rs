//! The configuration: `piton.toml` read, checked and resolved for one environment.

mod settings;
mod values;
mod window;

pub use settings::{
    Backup, Build, Check, CheckKind, ColumnCheck, DataFrom, Database, Engine, ForeignKey, Gate, HttpCheck,
    JsonExpectation, MigrationTool, Migrations, Origin, OriginEntry, Ports, Ready, ReferentialAction,
    Rollout, Run, RunWith, Scalar, Settings, SqlCheck, TableCheck, TableName,
};
pub use values::{
    CommandLine, Percent, RolloutStep, ValueError, format_duration, parse_duration, parse_listen,
};
pub use window::Window;
