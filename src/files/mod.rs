//! Files that hold secrets, and those beside them: read with the checks that a key deserves,
//! written so that a crash leaves a whole set or none. Knows files; not what is in them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::primitives::digest::hex;

/// Mode bits of the group and of everybody else.
const OTHERS: u32 = 0o077;
/// … of everybody else alone, for reading, and for passing through a directory.
const EVERYBODY_READ: u32 = 0o004;
const EVERYBODY_PASS: u32 = 0o001;
/// Of both, for writing only.
const OTHERS_WRITE: u32 = 0o022;

/// What can go wrong with such a file: all of it is for the operator to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("can't write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} can be read by other users (mode {mode:04o}): run `chmod 600 {path}`")]
    LooseMode { path: PathBuf, mode: u32 },
    #[error("{path} can be changed by other users (mode {mode:04o}): run `chmod 700 {path}`")]
    LooseDirectory { path: PathBuf, mode: u32 },
    #[error("{path} is open to other users (mode {mode:04o}): run `chmod 700 {path}`")]
    OpenDirectory { path: PathBuf, mode: u32 },
    #[error("the system gave no random numbers")]
    Random,
}

/// The text of a file that holds no secret.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The text of a private key file. Refused where others can read it (threat 20). The
/// mode is that of the open file, so that a swap between check and read changes nothing.
pub(crate) fn read_key(path: &Path) -> Result<Zeroizing<String>, Error> {
    let file = open(path)?;
    check_key(path, &file)?;
    read_secret(path, file)
}

/// The text of a private key file whose mode the config has judged already, by its own switch.
pub(crate) fn read_judged_key(path: &Path) -> Result<Zeroizing<String>, Error> {
    read_secret(path, open(path)?)
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn read_secret(path: &Path, mut file: File) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(text)
}

/// The bytes of a private file that its owner may write to, checked like a key's.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    check_key(path, &file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Checks a private key file's mode, and reads nothing.
pub(crate) fn check_key_mode(path: &Path) -> Result<(), Error> {
    check_key(path, &open(path)?)
}

/// Whether every user of the machine can read this file: by its own mode, and by those of all
/// the directories that lead to it. (A group may be let in on purpose.)
pub(crate) fn is_exposed(path: &Path) -> io::Result<bool> {
    let path = fs::canonicalize(path)?;
    let allows = |path: &Path, bit| fs::metadata(path).map(|found| found.permissions().mode() & bit != 0);
    if !allows(&path, EVERYBODY_READ)? {
        return Ok(false);
    }
    for directory in path.ancestors().skip(1) {
        if !allows(directory, EVERYBODY_PASS)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_key(path: &Path, file: &File) -> Result<(), Error> {
    let metadata = file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(Error::LooseMode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// A directory that others can write to would let them swap the keys in it.
pub(crate) fn check_directory_mode(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(Error::LooseDirectory { path: path.to_owned(), mode });
    }
    Ok(())
}

/// A directory for its owner alone: made, with what is above it, where missing, and refused
/// where others can look into it.
pub(crate) fn private_directory(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let metadata = fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(Error::OpenDirectory { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether there is nothing at `path`, or an empty directory.
pub(crate) fn is_absent_or_empty(path: &Path) -> Result<bool, Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// One file of a set.
pub(crate) struct NewFile<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    pub(crate) mode: u32,
}

/// A directory with files in it that nobody looks at yet. Removed on drop unless published.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    published: bool,
}

impl Staged {
    /// Writes `files` into a new 0700 directory inside `parent` (made, 0700, where
    /// missing), and has them on the disk when it returns.
    pub(crate) fn write(parent: &Path, files: &[NewFile<'_>]) -> Result<Self, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed(parent))?;
        let path = parent.join(format!(".new-{}", random_hex::<8>()?));
        DirBuilder::new().mode(0o700).create(&path).map_err(failed(&path))?;
        let staged = Self { path, published: false };
        for file in files {
            let path = staged.path.join(file.name);
            write_new(&path, file.text, file.mode).map_err(failed(&path))?;
        }
        sync_directory(&staged.path).map_err(failed(&staged.path))?;
        Ok(staged)
    }

    /// Makes this directory `target`, in one step. False where another process already
    /// has put a directory with files there, which then stays as it is.
    pub(crate) fn publish(mut self, target: &Path) -> Result<bool, Error> {
        match fs::rename(&self.path, target) {
            Ok(()) => self.published = true,
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                return Ok(false);
            }
            Err(source) => return Err(Error::Write { path: target.to_owned(), source }),
        }
        let parent = target.parent().unwrap_or(target);
        sync_directory(parent).map_err(|source| Error::Write { path: parent.to_owned(), source })?;
        Ok(true)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Puts a private file at `path`, in place of one that may be there: after a crash it is the
/// old one or the new one, and when this returns it is the new one. The caller sees to it
/// that nobody else does the same at once.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    write_new(&aside, text, 0o600).map_err(failed)?;
    rename(&aside, path)
}

/// Renames, and has the new name on the disk when it returns.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let failed = |source| Error::Write { path: to.to_owned(), source };
    fs::rename(from, to).map_err(failed)?;
    sync_directory(to.parent().unwrap_or(to)).map_err(failed)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// `N` random bytes in hexadecimal.
pub(crate) fn random_hex<const N: usize>() -> Result<String, Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_private_directory_is_made_or_judged() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        private_directory(&directory).unwrap();
        private_directory(&directory).unwrap();
        assert_eq!((mode(&directory), mode(directory.parent().unwrap())), (0o700, 0o700));
        for loose in [0o755, 0o750, 0o701, 0o770] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(loose)).unwrap();
            let error = private_directory(&directory).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 700 {}", directory.display())), "{error}");
            assert_eq!(mode(&directory), loose, "refused, and not mended behind the operator's back");
        }
    }

    /// Threat 20: by the file's mode, and by those of what leads to it, links followed.
    #[test]
    fn a_file_is_exposed_where_everybody_can_get_to_it() {
        let private = tempfile::tempdir().unwrap();
        let open = private.path().join("open");
        fs::create_dir(&open).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let (file, link) = (open.join("secret"), private.path().join("link"));
        fs::write(&file, "hunter2").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for (above, directory, mode, expected) in [
            (0o755, 0o755, 0o644, true),
            (0o711, 0o711, 0o604, true),
            (0o755, 0o755, 0o640, false),
            (0o755, 0o750, 0o644, false),
            (0o700, 0o755, 0o644, false),
            (0o755, 0o754, 0o644, false),
        ] {
            set(private.path(), above);
            set(&open, directory);
            set(&file, mode);
            for path in [&file, &link] {
                assert_eq!(is_exposed(path).unwrap(), expected, "{above:o} {directory:o} {mode:o}");
            }
        }
        assert!(is_exposed(&open.join("none")).is_err());
    }

    #[test]
    fn a_replaced_file_is_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        // What a crash may have left.
        fs::write(directory.path().join("x.new"), "half").unwrap();
        for text in ["one", "two"] {
            replace(&path, text).unwrap();
            assert_eq!((read_text(&path).unwrap().as_str(), mode(&path)), (text, 0o600));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(matches!(replace(&path.join("none"), "x"), Err(Error::Write { .. })));
    }
}
