//! What is wrong with a config, as a person reads it: the place, the line with a
//! caret, and what to write instead. Knows text and spans; no TOML, no settings.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::mask;

/// Bytes of the file.
pub(super) type Span = Range<usize>;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong; lower case, without a full stop. Never holds a secret.
    pub message: String,
    /// Counted from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// In characters, counted from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// What to write or do instead.
    pub help: String,
    /// In bytes of the file, on one line.
    pub(super) span: Span,
}

/// Everything that is wrong with a config, in the order of the file.
pub struct Problems {
    file: PathBuf,
    /// The file's text, secrets masked.
    source: String,
    found: Vec<Problem>,
}

impl Problem {
    pub(super) fn new(source: &str, span: Span, message: String, help: String) -> Self {
        let span = clamp(source, span);
        let before = &source[..span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            message: printable(message),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            help: printable(help),
            span,
        }
    }

    /// A problem with the file as a whole.
    pub(super) fn whole_file(message: String, help: String) -> Self {
        Self { message: printable(message), line: 0, column: 0, help: printable(help), span: 0..0 }
    }

    /// As the operator sees it. `masked` is the file's text without secrets.
    pub(super) fn render(&self, level: Level<'_>, file: &Path, masked: &str, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let path = file.display().to_string();
        let title = level.primary_title(self.message.as_str());
        let mut group =
            if self.line == 0 { Group::with_title(title) } else { title.element(self.snippet(&path, masked)) };
        if !self.help.is_empty() {
            group = group.element(Level::HELP.message(self.help.as_str()));
        }
        renderer.render(&[group])
    }

    fn snippet<'a>(&self, path: &'a str, masked: &'a str) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let start = masked[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        let end = masked[start..].find('\n').map_or(masked.len(), |at| start + at);
        let within = self.span.start - start..self.span.end.min(end).max(self.span.start) - start;
        Snippet::source(&masked[start..end])
            .line_start(self.line)
            .path(path)
            .annotation(AnnotationKind::Primary.span(within))
    }
}

impl Problems {
    pub(super) fn new(file: &Path, source: String, mut found: Vec<Problem>) -> Self {
        found.sort_by_key(|problem| problem.span.start);
        Self { file: file.to_owned(), source, found }
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.found.iter()
    }

    /// All of them, one block each, with a blank line between.
    pub fn render(&self, color: bool) -> String {
        self.render_at(&Level::ERROR, color)
    }

    /// The same for what keeps nothing from starting.
    pub fn render_as_warnings(&self, color: bool) -> String {
        self.render_at(&Level::WARNING, color)
    }

    fn render_at(&self, level: &Level<'_>, color: bool) -> String {
        let mut out = String::new();
        for problem in &self.found {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&problem.render(level.clone(), &self.file, &self.source, color));
            out.push('\n');
        }
        out
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problems").field("file", &self.file).field("found", &self.found).finish_non_exhaustive()
    }
}

impl std::error::Error for Problems {}

/// The file's text as problems may show it.
pub(super) fn masked(source: &str, spans: &[Span]) -> String {
    let mut spans: Vec<Span> = spans.to_vec();
    spans.extend(mask::secret_spans(source));
    mask::apply(source, &spans)
}

/// A span within the text, on character borders and on one line.
fn clamp(source: &str, span: Span) -> Span {
    let border = |mut at: usize| {
        at = at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (border(span.start), border(span.end.max(span.start)));
    let line_end = source[start..].find(['\n', '\r']).map_or(source.len(), |at| start + at);
    start..end.min(line_end)
}

/// Values and paths come from the file: none of them moves the terminal's cursor.
fn printable(text: String) -> String {
    if text.chars().any(char::is_control) { text.replace(char::is_control, "\u{fffd}") } else { text }
}

/// A value of the file as a message may show it: short, and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    out = out.replace("\\\"", "\"").replace("\\'", "'");
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

/// The candidate that was probably meant.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate)
}

/// `` `a`, `b` and `c` ``
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        out.push_str(": ");
        out.push_str(&error.to_string());
        cause = error.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one_and_stay_on_their_line() {
        let source = "a = 1\nbé = 'x'\n";
        let problem = Problem::new(source, 11..99, String::new(), String::new());
        assert_eq!((problem.line, problem.column, problem.span), (2, 5, 11..15));
        let problem = Problem::new(source, 999..1000, String::new(), String::new());
        assert_eq!((problem.line, problem.column), (3, 1));
    }

    #[test]
    fn lists_and_likeness_read_well() {
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(closest("scope", ["client_id", "scopes"]), Some("scopes"));
        assert_eq!(closest("zzz", ["client_id", "scopes"]), None);
        assert_eq!(shown("a\u{1b}[1m\"b\""), "a\\u{1b}[1m\"b\"");
    }
}
