//! The log for people and collectors of logs, on stderr: text on a terminal, JSON lines
//! elsewhere. It tells how cupbearer fares; what requests did stands in the audit log.
//!
//! Values come from outside (a server's words, a name that was asked for). None can forge a
//! line or drive a terminal (threat 109): tracing-subscriber cleans the message but not the
//! fields, so the fields are written here.

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal, Write},
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        MakeWriter,
        format::{self, Writer},
    },
    util::SubscriberInitExt,
};

use super::line::acts_unseen;

/// The variable that overrides the level: `info`, `cupbearer=debug,hyper=warn`, …
pub const FILTER_VARIABLE: &str = "CUPBEARER_LOG";

/// How the log is written: `--log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

/// Why the log couldn't be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's variable is wrong.
    #[error("`CUPBEARER_LOG` isn't a filter such as `info` or `cupbearer=debug,hyper=warn`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Called twice: the caller is at fault.
    #[error("the log is already set up")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up the log of the process. `verbosity` is the number of `-v` minus that of `-q`:
/// 0 is `info`. `CUPBEARER_LOG` overrides it, and `NO_COLOR` takes the colours away.
pub fn init(format: Format, verbosity: i8) -> Result<(), Error> {
    let terminal = io::stderr().is_terminal();
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let look = match format {
        Format::Json => Look::Json,
        Format::Auto if !terminal => Look::Json,
        Format::Auto | Format::Text => Look::Text { color: terminal && !no_color },
    };
    let directives = env::var(FILTER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let filter = filter(directives.as_deref(), verbosity)?;
    subscriber(look, filter, io::stderr).try_init().map_err(Error::Twice)
}

#[derive(Clone, Copy, Debug)]
enum Look {
    Text { color: bool },
    Json,
}

/// Libraries stay two steps quieter than cupbearer itself: at their own `debug` some show
/// more of a request than a log should hold (threat 19). Only `CUPBEARER_LOG` can ask for that.
fn filter(directives: Option<&str>, verbosity: i8) -> Result<EnvFilter, Error> {
    let default = match verbosity {
        ..=-2 => "error",
        -1 => "warn",
        0 => "warn,cupbearer=info",
        1 => "warn,cupbearer=debug",
        2.. => "info,cupbearer=trace",
    };
    EnvFilter::builder().parse(directives.unwrap_or(default)).map_err(Error::Filter)
}

fn subscriber<W>(look: Look, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match look {
        Look::Text { color } => Box::new(
            builder
                .with_ansi(color)
                .fmt_fields(format::debug_fn(write_field).delimited(" "))
                .with_writer(writer)
                .finish(),
        ),
        Look::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_writer(CleanJson(writer))
                .finish(),
        ),
    }
}

fn write_field(writer: &mut Writer<'_>, field: &tracing::field::Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaping(writer), "{value:?}")
}

/// Writes what is no plain character as an escape: `\n`, `\u{1b}`.
struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() || acts_unseen(character) {
                write!(self.0, "{}", character.escape_default())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// JSON escapes the controls below a space; this does the same for the rest of what a
/// terminal acts on. None of those characters stands outside of a JSON string.
#[derive(Debug)]
struct CleanJson<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for CleanJson<W> {
    type Writer = CleanJson<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        CleanJson(self.0.make_writer())
    }
}

impl<W: Write> Write for CleanJson<W> {
    /// The subscriber hands over each event whole, so no character is cut in two.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes) {
            Ok(text) if text.contains(acts_unseen) => {
                let mut clean = String::with_capacity(text.len() + 16);
                for character in text.chars() {
                    if acts_unseen(character) {
                        let _ = write!(clean, "\\u{:04x}", u32::from(character));
                    } else {
                        clean.push(character);
                    }
                }
                self.0.write_all(clean.as_bytes())?;
            }
            Ok(_) | Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(look: Look, directives: Option<&str>, verbosity: i8, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let filter = filter(directives, verbosity).unwrap();
        tracing::subscriber::with_default(subscriber(look, filter, move || writer.clone()), work);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const HOSTILE: &str = "a\r\n2026 ERROR forged\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\tz";

    fn log_hostile() {
        let span = tracing::info_span!("request", host = %HOSTILE);
        let _in = span.enter();
        let error = io::Error::other(HOSTILE);
        tracing::error!(value = %HOSTILE, text = HOSTILE, debug = ?HOSTILE, error = &error as &dyn std::error::Error, "said {HOSTILE}");
    }

    /// Threat 109.
    #[test]
    fn values_forge_no_text_line() {
        for color in [false, true] {
            let text = logged(Look::Text { color }, None, 0, log_hostile);
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.contains(r"value=a\r\n2026 ERROR forged\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\tz"), "{text}");
            assert!(text.contains(r"said a\r\n2026"), "{text}");
            let inner = text.trim_end_matches('\n');
            let allowed = |c: char| color && c == '\u{1b}';
            assert!(!inner.chars().any(|c| (c.is_control() || acts_unseen(c)) && !allowed(c)), "{text:?}");
            assert_eq!(text.contains('\u{1b}'), color);
            assert!(!text.contains("\u{1b}[31m\\"), "{text:?}");
        }
    }

    #[test]
    fn values_forge_no_json_line() {
        let text = logged(Look::Json, None, 0, log_hostile);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.trim_end_matches('\n').chars().any(|c| c.is_control() || acts_unseen(c)), "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["value"], HOSTILE);
        assert_eq!(line["message"], format!("said {HOSTILE}"));
    }

    #[test]
    fn verbosity_moves_the_level() {
        let all = || {
            tracing::error!("e");
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
            tracing::trace!("t");
            tracing::debug!(target: "hyper", "h");
        };
        let lines = |directives, verbosity| logged(Look::Json, directives, verbosity, all).lines().count();
        assert_eq!([-2, -1, 0, 1, 2, 9].map(|verbosity| lines(None, verbosity)), [1, 2, 3, 4, 5, 5]);
        assert_eq!(lines(Some("hyper=debug"), 0), 1);
        assert_eq!(lines(Some("error,hyper=debug"), 0), 2);
        assert_eq!(lines(Some("trace"), -2), 6);
    }

    #[test]
    fn a_wrong_filter_is_an_error() {
        assert!(matches!(filter(Some("cupbearer=loud"), 0), Err(Error::Filter(_))));
    }
}
