//! The audit log as a file: JSON lines, appended. Knows files and no record's meaning.
//!
//! A log that can't be written stops nobody here (whether requests are refused meanwhile is
//! the recorder's business): lost lines are counted and said once, and every batch tries again.
//! A rotated log (renamed, removed) is noticed by its inode and opened anew.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::lane::Lines;

/// The file.
#[derive(Debug)]
pub(super) struct AuditLog {
    path: PathBuf,
    file: Option<File>,
    failing: bool,
}

impl AuditLog {
    /// Opens the log, so that a wrong path shows at the start. The file is made 0600,
    /// missing directories above it 0700.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self { path: path.to_owned(), file: Some(file), failing: false })
    }

    /// Whether the last thing that was to be written couldn't be.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Call before each batch: follows a rotation.
    pub(super) fn begin(&mut self) {
        let same = match (&self.file, std::fs::metadata(&self.path)) {
            (Some(file), Ok(there)) => {
                file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
            }
            (None, _) | (Some(_), Err(_)) => false,
        };
        if same {
            return;
        }
        match open(&self.path) {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                self.file = None;
                self.failed(&error);
            }
        }
    }

    /// Returns how many of the lines were lost: these are the last of them.
    pub(super) fn write(&mut self, lines: &Lines) -> u64 {
        if lines.count() == 0 {
            return 0;
        }
        let text = lines.text();
        let (written, result) = match &mut self.file {
            Some(file) => write_counted(file, text),
            None => (0, Ok(())),
        };
        let whole = if written == text.len() {
            lines.count()
        } else {
            text[..written].iter().filter(|byte| **byte == b'\n').count() as u64
        };
        let lost = lines.count().saturating_sub(whole);
        if let Err(error) = result {
            // Opening it again mends a torn last line, see `open`.
            self.file = None;
            self.failed(&error);
        } else if lost == 0 && std::mem::take(&mut self.failing) {
            tracing::info!(path = %self.path.display(), "the audit log is written again");
        }
        lost
    }

    /// Once for each time that it starts to fail: a full disk must not fill the other log too.
    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(path = %self.path.display(), %error, "the audit log can't be written; records are being lost");
        }
    }
}

/// How many bytes reached the file, also where an error ended it.
fn write_counted(file: &mut File, mut bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                written += count;
                bytes = &bytes[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    if ends_torn(&mut file)? {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Whether the last line has no end: a crash or a full disk cut it. What is appended
/// next must not become part of it.
fn ends_torn(file: &mut File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::observe::line::tests::{failed, moment};

    fn batch(log: &mut AuditLog, count: usize) -> u64 {
        let mut lines = Lines::default();
        (0..count).for_each(|_| lines.push_event(&failed("no"), moment()));
        log.begin();
        log.write(&lines)
    }

    fn lines(path: &Path) -> usize {
        let text = fs::read_to_string(path).unwrap();
        text.lines().inspect(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap())).count()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/state/audit.jsonl");
        let mut log = AuditLog::open(&path).unwrap();
        assert_eq!(batch(&mut log, 2), 0);
        assert_eq!(lines(&path), 2);
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&directory.path().join("new")), 0o700);
        assert_eq!(mode(&directory.path().join("new/state")), 0o700);
    }

    #[test]
    fn a_second_process_life_appends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        for _ in 0..2 {
            assert_eq!(batch(&mut AuditLog::open(&path).unwrap(), 3), 0);
        }
        assert_eq!(lines(&path), 6);
    }

    #[test]
    fn a_torn_last_line_stays_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, "{\"time\":\"20").unwrap();
        batch(&mut AuditLog::open(&path).unwrap(), 1);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "{\"time\":\"20");
        assert!(lines[1].starts_with("{\"time\":\"2026") && lines[1].ends_with('}'), "{}", lines[1]);
    }

    #[test]
    fn a_rotated_log_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let old = directory.path().join("audit.jsonl.1");
        let mut log = AuditLog::open(&path).unwrap();
        batch(&mut log, 1);
        fs::rename(&path, &old).unwrap();
        assert_eq!(batch(&mut log, 2), 0);
        assert_eq!((lines(&old), lines(&path)), (1, 2));
        fs::remove_file(&path).unwrap();
        assert_eq!(batch(&mut log, 3), 0);
        assert_eq!(lines(&path), 3);
    }

    #[test]
    fn lost_lines_are_counted_and_writing_resumes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/audit.jsonl");
        let mut log = AuditLog::open(&path).unwrap();
        batch(&mut log, 1);
        fs::remove_dir_all(directory.path().join("state")).unwrap();
        // A file where the directory was: the log can't be made again.
        fs::write(directory.path().join("state"), "").unwrap();
        assert_eq!(batch(&mut log, 5), 5);
        assert!(log.failing);
        fs::remove_file(directory.path().join("state")).unwrap();
        assert_eq!(batch(&mut log, 2), 0);
        assert!(!log.failing);
        assert_eq!(lines(&path), 2);
    }

    #[test]
    fn a_full_disk_is_no_crash() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let mut log = AuditLog::open(full).unwrap();
        assert_eq!(batch(&mut log, 2), 2);
    }
}
