//! The witness of the last write, in a small file beside the database. A database that is
//! older than its witness comes from a backup, and may hold refresh tokens that were used
//! since: presenting one again ends the whole login (RFC 9700 §4.14).
//!
//! It sees a database that was put back alone, or a disk that lost the last commits. A backup
//! of the whole directory, put back whole, brings its own witness: nothing here can tell.

use std::path::Path;

use super::{StoreError, database::FORMAT};
use crate::files;

/// The generation in `path`; `None` without a file.
pub(super) fn read(path: &Path) -> Result<Option<u64>, StoreError> {
    match path.try_exists() {
        Ok(false) => return Ok(None),
        Ok(true) => {}
        Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
    }
    let text = files::read_text(path)?;
    let damaged = || StoreError::DamagedGeneration { path: path.to_owned() };
    let (format, generation) = text.split_once('\n').ok_or_else(damaged)?;
    let format: u32 = number(format, "format ").ok_or_else(damaged)?;
    if format > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found: format, known: FORMAT });
    }
    number(generation.trim_end(), "generation ").map(Some).ok_or_else(damaged)
}

/// Durable when it returns.
pub(super) fn write(path: &Path, generation: u64) -> Result<(), StoreError> {
    Ok(files::replace(path, &format!("format {FORMAT}\ngeneration {generation}\n"))?)
}

fn number<T: std::str::FromStr>(line: &str, label: &str) -> Option<T> {
    line.strip_prefix(label)?.parse().ok()
}
