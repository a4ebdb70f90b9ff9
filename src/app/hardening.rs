//! Keeps secrets out of core dumps and away from the debugger of another process of
//! the same user (threat 20).

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
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
