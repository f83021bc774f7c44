//! The table of contents of a dump in pg_dump's directory format.

use std::path::Path;

use fs_err as fs;
use memchr::memmem;

use crate::{DbError, files};

/// How the statements begin that hold secrets: log-ins on foreign servers, and settings of the database.
const STATEMENTS: [&[u8]; 3] = [b"CREATE USER MAPPING FOR ", b"ALTER DATABASE ", b"ALTER ROLE "];

/// Blanks what may be a secret and is not restored for another environment: pg_dump can leave none of it out.
///
/// A text stands behind its length, which stays: whatever reads the file finds the rest where it was.
pub(crate) fn blank_secrets(dump: &Path) -> Result<(), DbError> {
    let file = dump.join("toc.dat");
    let mut bytes = fs::read(&file)?;
    if !blank(&mut bytes) {
        return Err(DbError::BadDump { file, why: "its form is not known".into() });
    }
    files::write(&file, &bytes)
}

/// Tells whether a dump has an object of this name, or an object in a schema of this name; it may be a text that says so.
pub(crate) fn mentions(dump: &Path, name: &str) -> Result<bool, DbError> {
    Ok(memmem::find(&fs::read(dump.join("toc.dat"))?, name.as_bytes()).is_some())
}

/// Returns false when it cannot be told where a text ends.
fn blank(toc: &mut [u8]) -> bool {
    // The magic word, three bytes of the version, and how many bytes a number has.
    if !toc.starts_with(b"PGDMP") || toc.get(8) != Some(&4) {
        return false;
    }
    let found = STATEMENTS.iter().flat_map(|statement| memmem::find_iter(toc, statement));
    let found: Vec<usize> = found.collect();
    found.into_iter().all(|at| match toc[..at] {
        // A sign, and a length below 16 MB. Within another text, such as a function's, no zero byte stands before the words.
        [.., 0, a, b, c, 0] => {
            let length = usize::try_from(u32::from_le_bytes([a, b, c, 0])).unwrap_or(0);
            let text = toc.get_mut(at..at + length);
            text.is_some_and(|text| {
                text.fill(b' ');
                true
            })
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_so_is_blanked() {
        let text = |text: &str| {
            let length = u32::try_from(text.len()).unwrap().to_le_bytes();
            [&[0], length.as_slice(), text.as_bytes()].concat()
        };
        let function = text("do 'CREATE USER MAPPING FOR x SERVER y;\n'");
        let log_in = text("CREATE USER MAPPING FOR a SERVER b OPTIONS (\n    password 'x);\ny'\n);\n");
        let setting = text("ALTER DATABASE a SET \"app.password\" TO 'x';\n");
        let mut toc = [b"PGDMP\x01\x0e\0\x04".as_slice(), &log_in, &function, &setting].concat();
        let length = toc.len();
        assert!(blank(&mut toc) && toc.len() == length);
        assert_eq!(memmem::find_iter(&toc, b"password").count(), 0);
        assert!(memmem::find(&toc, &function).is_some());
        assert!(!blank(&mut b"PGDMP\x01\x0e\0\x08".to_vec()), "another form");
    }
}
