//! Advisory locks on files (`flock`): they hold among processes, among threads (each has its
//! own open file), and go with whoever dies. Knows files; not what they stand for.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use super::StoreError;

/// Between two attempts; an operation takes about three times as long.
const PAUSE: Duration = Duration::from_millis(2);

/// A file that this thread has locked.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// `None` while another has it.
    pub(super) fn attempt(path: &Path) -> Result<Option<Self>, StoreError> {
        Self::on(open(path)?, path).map(Result::ok)
    }

    /// Waits no longer than `patience`: who holds it may be stopped, and the system has no
    /// lock with a limit. So it asks again and again.
    pub(super) fn wait(path: &Path, patience: Duration) -> Result<Self, StoreError> {
        let mut file = open(path)?;
        let mut waited = Duration::ZERO;
        loop {
            file = match Self::on(file, path)? {
                Ok(lock) => return Ok(lock),
                Err(_) if waited >= patience => return Err(StoreError::Busy { path: path.to_owned() }),
                Err(file) => file,
            };
            std::thread::park_timeout(PAUSE);
            waited += PAUSE;
        }
    }

    /// The lock, or the file back while another has it.
    fn on(file: File, path: &Path) -> Result<Result<Self, File>, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Ok(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(Err(file)),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { path: path.to_owned(), source }),
        }
    }
}

/// Said, not left to the closing of the file: a child that is about to start has a copy of
/// the descriptor, until its `exec`.
impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(|source| StoreError::Io { path: path.to_owned(), source })
}
