//! How migration tools are recognised by the files that they want.

use std::path::Path;

use piton_db::migrate::Tool;

use super::model::KnownTool;

/// Each tool's usual folders, and what is in the one that it is.
const CONVENTIONS: [(KnownTool, &[&str], Sign); 6] = [
    (KnownTool::Prisma, &["prisma/migrations"], Sign::Itself),
    (KnownTool::Alembic, &["migrations", "alembic", "app/alembic", "db/migrations"], Sign::File("env.py")),
    (KnownTool::Django, &[".", "backend", "src", "app"], Sign::File("manage.py")),
    (KnownTool::Sqitch, &[".", "sqitch", "db", "migrations"], Sign::File("sqitch.plan")),
    (KnownTool::GolangMigrate, &["migrations", "db/migrations", "db/migration"], Sign::Ending(".up.sql")),
    (KnownTool::Sql, &["migrations", "db/migrations"], Sign::Itself),
];

/// What tells a tool's folder.
enum Sign {
    /// That it exists.
    Itself,
    /// A file in it.
    File(&'static str),
    /// A file whose name ends so.
    Ending(&'static str),
}

impl Sign {
    fn is_in(&self, folder: &Path) -> bool {
        match self {
            Self::Itself => folder.is_dir(),
            Self::File(name) => folder.join(name).is_file(),
            Self::Ending(ending) => {
                let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
                entries.any(|entry| entry.file_name().to_string_lossy().ends_with(ending))
            }
        }
    }
}

pub(super) fn tool_of(known: KnownTool) -> Tool {
    match known {
        KnownTool::Sql => Tool::Sql,
        KnownTool::Prisma => Tool::Prisma,
        KnownTool::Alembic => Tool::Alembic,
        KnownTool::Django => Tool::Django,
        KnownTool::GolangMigrate => Tool::GolangMigrate,
        KnownTool::Sqitch => Tool::Sqitch,
    }
}

/// Returns a tool as the configuration names it.
pub(super) fn word(tool: KnownTool) -> String {
    serde_json::to_value(tool).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
}

/// Finds the folder of a tool's migrations by its convention.
pub(super) fn folder_of(tool: &Tool, root: &Path) -> Option<&'static str> {
    // Commands know themselves where their files are.
    let commands = matches!(tool, Tool::Commands { .. }).then_some(".");
    commands.or_else(|| {
        let (_, folders, sign) = CONVENTIONS.into_iter().find(|(known, ..)| tool_of(*known) == *tool)?;
        folders.iter().copied().find(|folder| sign.is_in(&root.join(folder)))
    })
}

/// Recognises the tool that a folder's app uses, and where its migrations are.
pub(super) fn find(root: &Path) -> Option<(KnownTool, &'static str)> {
    CONVENTIONS.into_iter().find_map(|(known, folders, sign)| {
        let folder = folders.iter().copied().find(|folder| sign.is_in(&root.join(folder)))?;
        Some((known, folder))
    })
}
