//! The `cupbearer` command.

use std::process::ExitCode;

/// Chosen by measurement: see `docs/dependencies.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cupbearer::cli::main()
}
