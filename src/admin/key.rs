//! The operator's key: made on the first start, kept in the state directory, readable by
//! its owner alone. Whoever holds it may read token states and force refreshes.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nix::{fcntl::OFlag, unistd::geteuid};

use crate::primitives::{Secret, digest::hex};

/// The file's name in the state directory.
pub const KEY_FILE: &str = "admin.key";

/// Characters of a key that an operator wrote: 128 bits even where only hexadecimal was used.
const SHORTEST: usize = 32;
/// Bytes; a key is one short line.
const LONGEST: u64 = 1024;

/// Why there is no key; the message says what to do. The operator's machine is at fault.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("can't make the admin key in {}", .directory.display())]
    Make { directory: PathBuf, source: io::Error },
    #[error("can't read the admin key {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("others can read the admin key (mode {mode:03o}): `chmod 600 {}`", .path.display())]
    LooseMode { path: PathBuf, mode: u32 },
    #[error("the admin key {} belongs to another user", .path.display())]
    ForeignOwner { path: PathBuf },
    #[error("the admin key {} isn't one line of at least 32 plain characters: remove it and a new one is made", .path.display())]
    Unusable { path: PathBuf },
}

/// Reads `admin.key` in `directory`, and makes it (0600, 256 random bits) where there is
/// none. Of two processes that start at once, both get the same key.
pub fn load_or_create_key(directory: &Path) -> Result<Secret, KeyError> {
    let path = directory.join(KEY_FILE);
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(directory, &path).map_err(|source| KeyError::Make { directory: directory.to_owned(), source })?;
        }
        Ok(_) | Err(_) => {}
    }
    load(path)
}

/// Written aside and then linked: the name never shows half a key, and never replaces one.
fn create(directory: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let aside = directory.join(format!(".{KEY_FILE}.{}", hex(&random()?[..8])));
    let key = Secret::new(URL_SAFE_NO_PAD.encode(random()?));
    let linked = write_new(&aside, &key).and_then(|()| fs::hard_link(&aside, path));
    let removed = fs::remove_file(&aside);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.exists() => removed,
        Err(error) => Err(error),
        Ok(()) => removed,
    }
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(bytes)
}

fn write_new(path: &Path, key: &Secret) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Judges the file that was opened, not the name, so that nothing can be swapped in between.
fn load(path: PathBuf) -> Result<Secret, KeyError> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(source) => return Err(KeyError::Read { path, source }),
    };
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(source) => return Err(KeyError::Read { path, source }),
    };
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(KeyError::Unusable { path });
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err(KeyError::ForeignOwner { path });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::LooseMode { path, mode });
    }
    let mut text = zeroize::Zeroizing::new(String::with_capacity(LONGEST as usize));
    match file.take(LONGEST).read_to_string(&mut text) {
        Ok(_) => {}
        Err(source) => return Err(KeyError::Read { path, source }),
    }
    let key = text.trim_end_matches(['\r', '\n']);
    // RFC 6750 §2.1: what can stand behind `Bearer `.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if key.len() < SHORTEST || !key.bytes().all(plain) {
        return Err(KeyError::Unusable { path });
    }
    Ok(Secret::new(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KEY_FILE);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_key_is_made_once_and_only_for_the_owner() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let key = load_or_create_key(&directory).unwrap();
        assert_eq!(key.expose().len(), 43);
        assert!(load_or_create_key(&directory).unwrap().equals(&key));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(KEY_FILE)), 0o600);
        let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [KEY_FILE]);

        let other = tempfile::tempdir().unwrap();
        assert!(!load_or_create_key(other.path()).unwrap().equals(&key));
    }

    #[test]
    fn processes_that_start_at_once_agree() {
        let directory = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create_key(directory.path()).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| key.equals(&keys[0])));
    }

    #[test]
    fn loose_modes_are_refused_with_the_command_that_mends_them() {
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
            let (directory, path) = written(&"k".repeat(40), mode);
            let error = load_or_create_key(directory.path()).unwrap_err();
            assert!(matches!(error, KeyError::LooseMode { .. }), "{error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        let (directory, _path) = written(&"k".repeat(40), 0o400);
        assert!(load_or_create_key(directory.path()).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        for text in ["", "\n", "short-canary", &"canary with spaces ".repeat(3), &"canary".repeat(300)] {
            let (directory, _path) = written(text, 0o600);
            let error = load_or_create_key(directory.path()).unwrap_err();
            assert!(matches!(error, KeyError::Unusable { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("canary"));
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let (_elsewhere, target) = written(&"k".repeat(40), 0o600);
        let directory = tempfile::tempdir().unwrap();
        symlink(&target, directory.path().join(KEY_FILE)).unwrap();
        assert!(matches!(load_or_create_key(directory.path()), Err(KeyError::Read { .. })));
    }
}
