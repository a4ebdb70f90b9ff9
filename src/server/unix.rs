//! Listening socket files. One that a process left behind is taken away, but never one at
//! which somebody listens; ours goes when we do.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::primitives::listen::UnixAddress;

use super::listener::BACKLOG;

/// A socket file of ours, removed when dropped, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

/// Binds once; each of `count` workers has a descriptor of the same socket, since there is no
/// `SO_REUSEPORT` here.
///
/// # Errors
/// Somebody listens there, something else is there, or the directory isn't ours to write.
pub fn bind_unix(address: &UnixAddress, count: usize) -> io::Result<(SocketFile, Vec<UnixListener>)> {
    remove_stale(&address.path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&address.path)?)?;
    let file = SocketFile { path: address.path.clone(), id: id(&address.path)? };
    // Until it listens nobody can connect: the umask's bits never count.
    fs::set_permissions(&address.path, fs::Permissions::from_mode(address.mode))?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from(socket);
    let mut listeners = (1..count).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()?;
    listeners.push(listener);
    Ok((file, listeners))
}

/// Only a socket at which nobody listens is stale.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = id(&self.path).is_ok_and(|now| now == self.id);
        if still_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket file can't be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(directory: &tempfile::TempDir, mode: u32) -> UnixAddress {
        UnixAddress { path: directory.path().join("proxy.sock"), mode }
    }

    fn kind(result: io::Result<(SocketFile, Vec<UnixListener>)>) -> io::ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn the_file_has_its_mode_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let address = address(&directory, mode);
            let (file, listeners) = bind_unix(&address, 3).unwrap();
            assert_eq!(fs::symlink_metadata(&address.path).unwrap().mode() & 0o7777, mode);
            assert_eq!(listeners.len(), 3);
            UnixStream::connect(&address.path).unwrap();
            drop(file);
            assert!(!address.path.exists());
        }
    }

    #[test]
    fn only_a_socket_that_nobody_has_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let address = address(&directory, 0o600);
        let (file, listeners) = bind_unix(&address, 1).unwrap();
        assert_eq!(kind(bind_unix(&address, 1)), io::ErrorKind::AddrInUse);
        // Its process was killed: the file stays and nobody listens.
        std::mem::forget(file);
        drop(listeners);
        assert!(address.path.exists());
        let (file, _listeners) = bind_unix(&address, 1).unwrap();
        // Somebody else's file under our name isn't ours to remove.
        fs::remove_file(&address.path).unwrap();
        fs::write(&address.path, "precious").unwrap();
        drop(file);
        assert_eq!(kind(bind_unix(&address, 1)), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&address.path).unwrap(), "precious");
    }
}
