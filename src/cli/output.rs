//! The only place that prints. A closed pipe (`cupbearer check | head`) is no failure.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

/// Writes a line to stdout: what was asked for.
pub(super) fn line(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Writes to stdout as it is.
pub(super) fn text(text: impl Display) {
    let mut out = io::stdout();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a line to stderr: what is about the doing.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Somebody else's words: none of them moves the terminal's cursor.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Whether somebody reads what is said on stderr as it comes.
pub(super) fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether stderr takes colours (`NO_COLOR`, no-color.org).
pub(super) fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
