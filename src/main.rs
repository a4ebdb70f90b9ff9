//! The `cupbearer` command.

use std::process::ExitCode;

/// Why this one: `docs/dependencies.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cupbearer::cli::main()
}
