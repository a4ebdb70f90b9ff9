//! Path patterns, parsed once. They know canonical paths only. Rules that allow match
//! the exact text; rules that deny also match what an upstream may take for it.

use std::{fmt, iter::Peekable, str::Split, sync::Arc};

use crate::primitives::CanonicalPath;

use super::PatternError;

/// `/v1/orders`, `/v1/*/items`, `/v1/orders/**` (also matches `/v1/orders`).
/// `*` is exactly one segment that isn't empty, `**` any number of them. Where it allows, case
/// counts, and so does a `/` at the end: `/v1/orders` doesn't match `/v1/orders/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    segments: Arc<[Segment]>,
    /// Without wildcards there is one path that it matches.
    plain: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    /// Empty only as the last one: the path ends with `/`.
    Literal(Box<str>),
    /// `*`
    One,
    /// `**`
    Many,
}

/// How closely a path pattern describes what it matches; the greater one wins. The
/// literal segments before the first wildcard count first. Then a pattern without
/// wildcards wins, then the one with more literal segments, then the one with more
/// `*`, then the one without `**`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PathSpecificity {
    leading_literals: usize,
    plain: bool,
    literals: usize,
    ones: usize,
    bounded: bool,
}

// === impl PathPattern ===

impl PathPattern {
    /// The text has to be in the form that requests are brought into, since it could
    /// match none otherwise: nothing encoded that needn't be, no dot segments.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::NotAbsolute);
        }
        let path = CanonicalPath::parse(text).map_err(|_| PatternError::AmbiguousPath)?;
        if path.is_ambiguous() || path.as_str() != text {
            return Err(PatternError::AmbiguousPath);
        }
        let mut segments = split(text).map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        segments.dedup_by(|one, other| *one == Segment::Many && *other == Segment::Many);
        Ok(Self::of(segments))
    }

    fn of(segments: Vec<Segment>) -> Self {
        let mut pattern = Self { segments: segments.into(), plain: None };
        if pattern.segments.iter().all(|segment| matches!(segment, Segment::Literal(_))) {
            pattern.plain = Some(pattern.to_string().into());
        }
        pattern
    }

    /// `/**`: what a route without `paths` stands for.
    pub(super) fn any() -> Self {
        Self::of(vec![Segment::Many])
    }

    pub fn matches(&self, path: &CanonicalPath) -> bool {
        match &self.plain {
            Some(plain) => **plain == *path.as_str(),
            None => matches(&self.segments, split(path.as_str()), |literal, segment| literal == segment),
        }
    }

    /// For rules that deny: also matches what an upstream may take for a path that the
    /// pattern names, with characters encoded that need not be (`%3A` for `:`), in another case
    /// (threat 69) or with another `/` at the end.
    pub(super) fn matches_loosely(&self, path: &CanonicalPath) -> bool {
        let text = path.as_str();
        let segments = match &*self.segments {
            [rest @ .., Segment::Literal(last)] if last.is_empty() => rest,
            all => all,
        };
        match text.strip_suffix('/') {
            Some("") => matches(segments, std::iter::empty(), |_, _| false),
            Some(shorter) => matches(segments, split(shorter), may_be_same),
            None => matches(segments, split(text), may_be_same),
        }
    }

    /// Whether every path matches.
    pub(super) fn is_any(&self) -> bool {
        *self.segments == [Segment::Many]
    }

    pub(super) fn specificity(&self) -> PathSpecificity {
        let count = |kind: fn(&Segment) -> bool| self.segments.iter().filter(|segment| kind(segment)).count();
        let is_literal = |segment: &Segment| matches!(segment, Segment::Literal(_));
        let literals = count(is_literal);
        PathSpecificity {
            leading_literals: self.segments.iter().take_while(|segment| is_literal(segment)).count(),
            plain: literals == self.segments.len(),
            literals,
            ones: count(|segment| *segment == Segment::One),
            bounded: !self.segments.contains(&Segment::Many),
        }
    }

    /// A pattern of paths that both match, if there are any.
    pub(super) fn meet(&self, other: &Self) -> Option<Self> {
        let apart = |(one, other): (&Segment, &Segment)| one.common(other).is_none();
        let before_many = |segments: &[Segment]| segments.iter().take_while(|s| **s != Segment::Many).count();
        let fixed = before_many(&self.segments).min(before_many(&other.segments));
        if self.segments.iter().zip(&*other.segments).take(fixed).any(apart) {
            return None;
        }
        meet(&self.segments, &other.segments).map(Self::of)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::One => f.write_str("/*"),
            Segment::Many => f.write_str("/**"),
        })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PatternError> {
        match text {
            "*" => Ok(Self::One),
            "**" => Ok(Self::Many),
            text if text.contains('*') => Err(PatternError::Glob),
            text => Ok(Self::Literal(text.into())),
        }
    }

    /// What two single segments both take.
    fn common<'s>(&'s self, other: &'s Self) -> Option<&'s Self> {
        match (self, other) {
            (Self::Literal(one), Self::Literal(two)) => (one == two).then_some(self),
            (Self::Literal(text), Self::One) => (!text.is_empty()).then_some(self),
            (Self::One, Self::Literal(_)) => other.common(self),
            (Self::One, Self::One) => Some(self),
            (Self::Many, _) | (_, Self::Many) => None,
        }
    }
}

/// The segments of a path: what stands behind each `/`.
fn split(path: &str) -> Split<'_, char> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// Matches without allocating. After a mismatch only the last `**` has to take one
/// segment more: whatever an earlier one could take, the last one can too.
fn matches<'p>(
    pattern: &[Segment],
    path: impl Iterator<Item = &'p str> + Clone,
    same: impl Fn(&str, &str) -> bool,
) -> bool {
    let takes = |segment: &Segment, text: &str| match segment {
        Segment::Literal(literal) => same(literal, text),
        Segment::One => !text.is_empty(),
        Segment::Many => false,
    };
    let mut path: Peekable<_> = path.peekable();
    let mut at = 0;
    let mut retry = None;
    loop {
        match (pattern.get(at), path.peek()) {
            (Some(Segment::Many), _) => {
                at += 1;
                if at == pattern.len() {
                    return true;
                }
                retry = Some((at, path.clone()));
            }
            (None, None) => return true,
            (Some(segment), Some(text)) if takes(segment, text) => {
                at += 1;
                path.next();
            }
            _ => {
                let Some((behind_many, rest)) = &mut retry else { return false };
                if rest.next().is_none() {
                    return false;
                }
                at = *behind_many;
                path = rest.clone();
            }
        }
    }
}

/// Whether two segments are one text after decoding, to who doesn't look at case.
fn may_be_same(one: &str, other: &str) -> bool {
    let folded = |text| String::from_utf8_lossy(&decoded(text).collect::<Vec<_>>()).to_lowercase();
    one.eq_ignore_ascii_case(other) || (one.contains('%') || other.contains('%')) && folded(one) == folded(other)
}

fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *text.as_bytes().get(at)?;
        let encoded = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let value = encoded.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        at += if value.is_some() { 3 } else { 1 };
        Some(value.unwrap_or(byte))
    })
}

/// A pattern that lies in both. `open[i][j]` says whether the rests from `i` and from
/// `j` have something in common; it is filled from the end and then walked once.
fn meet(one: &[Segment], two: &[Segment]) -> Option<Vec<Segment>> {
    let is_many = |segment: Option<&Segment>| segment == Some(&Segment::Many);
    let mut open = vec![vec![false; two.len() + 1]; one.len() + 1];
    for i in (0..=one.len()).rev() {
        for j in (0..=two.len()).rev() {
            open[i][j] = match (one.get(i), two.get(j)) {
                (None, None) => true,
                (first, second) if is_many(first) || is_many(second) => {
                    // One side's `**` ends here, or takes what stands on the other side.
                    let first_moves = first.is_some() && open[i + 1][j];
                    let second_moves = second.is_some() && open[i][j + 1];
                    first_moves || second_moves
                }
                (Some(first), Some(second)) => first.common(second).is_some() && open[i + 1][j + 1],
                (None, Some(_)) | (Some(_), None) => false,
            };
        }
    }
    let (mut i, mut j, mut common) = (0, 0, Vec::new());
    while open[i][j] && (i < one.len() || j < two.len()) {
        match (one.get(i), two.get(j)) {
            (Some(Segment::Many), Some(Segment::Many)) if open[i + 1][j + 1] => {
                common.push(Segment::Many);
                (i, j) = (i + 1, j + 1);
            }
            (Some(Segment::Many), Some(segment)) if open[i][j + 1] => {
                common.extend((*segment != Segment::Many).then(|| segment.clone()));
                j += 1;
            }
            (Some(segment), Some(Segment::Many)) if open[i + 1][j] => {
                common.extend((*segment != Segment::Many).then(|| segment.clone()));
                i += 1;
            }
            (Some(Segment::Many), _) => i += 1,
            (_, Some(Segment::Many)) => j += 1,
            (Some(first), Some(second)) => {
                common.extend(first.common(second).cloned());
                (i, j) = (i + 1, j + 1);
            }
            (None, _) | (_, None) => break,
        }
    }
    open[0][0].then_some(common)
}
