//! Keeps secrets out of core dumps, away from the debugger of another process of the same user
//! and, where the operator wants that, out of the swap area (threat 20).

use nix::{
    sys::{
        mman::{MlockAllFlags, mlockall},
        prctl,
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
    },
    unistd::geteuid,
};

/// No core file, no `ptrace`, no `/proc/PID/environ` for others. A failure is logged:
/// the proxy works without, but the operator should know.
pub fn harden() {
    // The soft limit only: a command that `run` starts may raise it again for itself.
    let no_core = getrlimit(Resource::RLIMIT_CORE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, 0, hard));
    if let Err(error) = no_core {
        tracing::warn!(%error, "core dumps can't be switched off");
    }
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(%error, "the process can be inspected by others of the same user");
    }
}

/// Why memory can't be kept from the swap area.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "memory can't be locked: the limit is {limit} bytes, and what doesn't fit would be refused later on; set \
         `LimitMEMLOCK=infinity` in the unit (`ulimit -l unlimited` in a shell), or take `lock_memory` out"
    )]
    Limit { limit: u64 },
    #[error("memory can't be locked")]
    Refused(#[from] nix::Error),
}

/// Locks all memory, also what is allocated later. Called before a secret is read.
///
/// # Errors
/// The machine doesn't allow it, or not without a limit: an allocation past that would end us.
pub fn lock_memory() -> Result<(), LockError> {
    let (_, limit) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    // Root isn't held to the limit, or is told by the call itself.
    if limit != RLIM_INFINITY && !geteuid().is_root() {
        return Err(LockError::Limit { limit });
    }
    if limit == RLIM_INFINITY {
        setrlimit(Resource::RLIMIT_MEMLOCK, limit, limit)?;
    }
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)?;
    Ok(())
}
