//! A cursor over a parsed TOML document. It notes which keys were asked for and collects
//! every problem on the way, so that one pass finds unknown keys, missing ones and values
//! of the wrong kind. Knows TOML; knows nothing of what the keys mean.

use std::{
    cell::{Cell, RefCell},
    ffi::OsString,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    mask,
    problem::{Problem, Span, closest, listed, shown},
    units,
};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// The file, its surroundings, and what was found wrong so far.
pub(super) struct Document<'d> {
    pub(super) source: &'d str,
    /// Relative paths start here.
    pub(super) directory: &'d Path,
    pub(super) env: &'d dyn Fn(&str) -> Option<OsString>,
    /// `danger_allow_readable_secrets`.
    pub(super) readable_secrets: Cell<bool>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    secrets: RefCell<Vec<Span>>,
    #[cfg(test)]
    pub(super) known: RefCell<std::collections::BTreeSet<(&'static str, String)>>,
}

impl<'d> Document<'d> {
    pub(super) fn new(source: &'d str, directory: &'d Path, env: &'d dyn Fn(&str) -> Option<OsString>) -> Self {
        Self {
            source,
            directory,
            env,
            readable_secrets: Cell::default(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            secrets: RefCell::default(),
            #[cfg(test)]
            known: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        let problem = Problem::new(self.source, span.clone(), message.into(), help.into());
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn warning(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        let warning = Problem::new(self.source, span.clone(), message.into(), help.into());
        self.warnings.borrow_mut().push(warning);
    }

    /// No problem shows the text at `span`: it may be a secret.
    pub(super) fn hide(&self, span: &Span) {
        self.secrets.borrow_mut().push(span.clone());
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    pub(super) fn problem_count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Problems, warnings, and the places to mask in both.
    pub(super) fn into_findings(self) -> (Vec<Problem>, Vec<Problem>, Vec<Span>) {
        (self.problems.into_inner(), self.warnings.into_inner(), self.secrets.into_inner())
    }

    /// A path as the file writes it: `~` is HOME, relative ones start at the file.
    pub(super) fn expand(&self, text: &At<String>) -> Option<PathBuf> {
        let Some(rest) = text.value.strip_prefix('~') else {
            return Some(self.directory.join(&text.value));
        };
        if !rest.is_empty() && !rest.starts_with('/') {
            self.problem(&text.span, "`~` stands for your own home directory only", "write the whole path");
            return None;
        }
        let Some(home) = (self.env)("HOME").filter(|home| !home.is_empty()) else {
            self.problem(&text.span, "`~` can't be expanded: HOME isn't set", "write the whole path");
            return None;
        };
        Some(Path::new(&home).join(rest.trim_start_matches('/')))
    }
}

/// One table of the file.
pub(super) struct Section<'d> {
    pub(super) doc: &'d Document<'d>,
    /// Where problems with the table as a whole point to: its header or its name.
    pub(super) span: Span,
    /// As the reference names it: `credentials.NAME`.
    kind: &'static str,
    /// As the file names it: `[credentials.orders]`.
    title: String,
    table: &'d DeTable<'d>,
    asked: Vec<&'static str>,
    /// Keys that get a better answer than `unknown key`, but that nobody should be led to.
    refused: Vec<&'static str>,
}

type Entry<'d> = (&'d Spanned<DeString<'d>>, &'d Spanned<DeValue<'d>>);

impl<'d> Section<'d> {
    pub(super) fn root(doc: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        Self { doc, span: 0..0, kind: "", title: "the file".to_owned(), table, asked: Vec::new(), refused: Vec::new() }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Whether the key is there, whatever its value. Doesn't count as asking.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn is_empty_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().as_table().is_some_and(|table| table.is_empty()))
    }

    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty()))
    }

    /// The key's own place, else the section's.
    pub(super) fn place(&self, key: &str) -> Span {
        self.table.get_key_value(key).map_or(self.span.clone(), |(key, _)| key.span())
    }

    pub(super) fn entry(&mut self, key: &'static str) -> Option<Entry<'d>> {
        self.asked.push(key);
        self.table.get_key_value(key)
    }

    /// A problem where the key isn't there. `example` is a line to write.
    pub(super) fn need(&self, key: &str, example: &str) {
        if !self.has(key) {
            self.doc.problem(&self.span, format!("{} has no `{key}`", self.title), format!("add `{example}`"));
        }
    }

    /// A key that has no place in the file as it is, with what to write instead.
    pub(super) fn refuse(&mut self, key: &'static str, message: &str, help: &str) {
        self.refused.push(key);
        if let Some((at, value)) = self.table.get_key_value(key) {
            if mask::names_a_secret(key) {
                self.doc.hide(&value.span());
            }
            self.doc.problem(&at.span(), message, help);
        }
    }

    /// Keys that the design names and this version lacks.
    pub(super) fn unsupported(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.refuse(key, &format!("`{key}` is not supported by this version"), "take it out");
        }
    }

    pub(super) fn wrong_kind(&self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str, example: &str) {
        let kind = kind_of(value.get_ref());
        let (message, help) = (format!("`{key}` is {kind}, but wants {wanted}"), format!("write `{example}`"));
        self.doc.problem(&value.span(), message, help);
    }

    // Scalars.

    pub(super) fn string(&mut self, key: &'static str, example: &str) -> Option<At<String>> {
        let (_, value) = self.entry(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_kind(value, key, "a string", example);
            return None;
        };
        if text.trim().is_empty() {
            self.doc.problem(&value.span(), format!("`{key}` is empty"), format!("write `{example}`"));
            return None;
        }
        Some(At { value: text.to_owned(), span: value.span() })
    }

    pub(super) fn path(&mut self, key: &'static str, example: &str) -> Option<At<PathBuf>> {
        let text = self.string(key, example)?;
        let value = self.doc.expand(&text)?;
        Some(At { value, span: text.span })
    }

    /// `true` or `false`; `None` without the key.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<At<bool>> {
        let (_, value) = self.entry(key)?;
        let Some(flag) = value.get_ref().as_bool() else {
            self.wrong_kind(value, key, "true or false", &format!("{key} = true"));
            return None;
        };
        Some(At { value: flag, span: value.span() })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.boolean(key).is_some_and(|flag| flag.value)
    }

    /// A whole number without a unit.
    pub(super) fn count(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let (_, value) = self.entry(key)?;
        self.number(key, value, &range)
    }

    fn number(&self, key: &str, value: &Spanned<DeValue<'_>>, range: &RangeInclusive<u64>) -> Option<u64> {
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_kind(value, key, "a whole number", &format!("{key} = {}", range.start().max(&1)));
            return None;
        };
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| range.contains(number));
        if number.is_none() {
            let help = format!("write a number from {} to {}", range.start(), range.end());
            self.doc.problem(&value.span(), format!("`{key}` is out of range"), help);
        }
        number
    }

    /// A whole number, or a list of them.
    pub(super) fn counts(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Vec<u64> {
        let Some((_, value)) = self.entry(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else { return self.count(key, range).into_iter().collect() };
        if list.is_empty() {
            let help = format!("write `{key} = {}`", range.start());
            self.doc.problem(&value.span(), format!("`{key}` is empty"), help);
        }
        list.iter().filter_map(|item| self.number(key, item, &range)).collect()
    }

    /// `"30s"`; more than nothing.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let length = self.duration_or_zero(key)?;
        if length.value.is_zero() {
            self.doc.problem(&length.span, format!("`{key}` can't be zero"), format!("write `{key} = \"30s\"`"));
            return None;
        }
        Some(length.value)
    }

    pub(super) fn duration_or_zero(&mut self, key: &'static str) -> Option<At<Duration>> {
        let (_, value) = self.entry(key)?;
        if let Some(number) = value.get_ref().as_integer() {
            let message = format!("`{key}` is a number without a unit");
            self.doc.problem(&value.span(), message, format!("write `{key} = \"{number}s\"` if you mean seconds"));
            return None;
        }
        let text = self.string(key, &format!("{key} = \"30s\""))?;
        match units::duration(&text.value) {
            Ok(length) => Some(At { value: length, span: text.span }),
            Err(help) => {
                self.doc.problem(&text.span, format!("`{}` is no duration", shown(&text.value)), help);
                None
            }
        }
    }

    /// `"64KiB"`, in bytes.
    pub(super) fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<usize> {
        let (_, value) = self.entry(key)?;
        if let Some(number) = value.get_ref().as_integer() {
            let text = number.as_str().parse().map_or_else(|_| "64KiB".to_owned(), units::size_text);
            let help = format!("write `{key} = \"{text}\"` if you mean bytes");
            self.doc.problem(&value.span(), format!("`{key}` is a number without a unit"), help);
            return None;
        }
        let text = self.string(key, &format!("{key} = \"64KiB\""))?;
        match units::size(&text.value) {
            Ok(bytes) if range.contains(&bytes) => usize::try_from(bytes).ok(),
            Ok(_) => {
                let (least, most) = (units::size_text(*range.start()), units::size_text(*range.end()));
                let help = format!("write a size from {least} to {most}");
                self.doc.problem(&text.span, format!("`{key}` is out of range"), help);
                None
            }
            Err(help) => {
                self.doc.problem(&text.span, format!("`{}` is no size", shown(&text.value)), help);
                None
            }
        }
    }

    /// One of a few words. `later` are words that are known but not supported yet.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
        later: &[&'static str],
    ) -> Option<T> {
        let names = || choices.iter().map(|(name, _)| *name);
        let example = names().next().map_or(String::new(), |first| format!("{key} = \"{first}\""));
        let text = self.string(key, &example)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(*choice);
        }
        let shown = shown(&text.value);
        if later.contains(&text.value.as_str()) {
            let message = format!("{key} \"{shown}\" is not supported by this version");
            self.doc.problem(&text.span, message, format!("write {}", listed(names())));
            return None;
        }
        let help = match closest(&text.value, names().chain(later.iter().copied())) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write {}", listed(names())),
        };
        self.doc.problem(&text.span, format!("unknown {key} `{shown}`"), help);
        None
    }

    // Lists.

    /// A list of strings. `empty` says what an empty list would mean.
    pub(super) fn strings(&mut self, key: &'static str, example: &str, empty: &str) -> Option<At<Vec<At<String>>>> {
        let (_, value) = self.entry(key)?;
        if let DeValue::String(text) = value.get_ref() {
            let help = format!("write `{key} = [\"{}\"]`", shown(text));
            self.doc.problem(&value.span(), format!("`{key}` is a string, but wants a list"), help);
            return None;
        }
        self.string_list(key, value, example, empty)
    }

    /// A string, or a list of them.
    pub(super) fn one_or_more(&mut self, key: &'static str, example: &str, empty: &str) -> Option<At<Vec<At<String>>>> {
        let (_, value) = self.entry(key)?;
        if value.get_ref().is_str() {
            let text = self.string(key, example)?;
            return Some(At { span: text.span.clone(), value: vec![text] });
        }
        self.string_list(key, value, example, empty)
    }

    fn string_list(
        &self,
        key: &str,
        value: &'d Spanned<DeValue<'d>>,
        example: &str,
        empty: &str,
    ) -> Option<At<Vec<At<String>>>> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_kind(value, key, "a list of strings", example);
            return None;
        };
        if list.is_empty() {
            self.doc.problem(&value.span(), format!("`{key}` is empty"), empty);
            return None;
        }
        let mut items: Vec<At<String>> = Vec::new();
        for item in list.iter() {
            let Some(text) = item.get_ref().as_str().filter(|text| !text.trim().is_empty()) else {
                self.wrong_kind(item, key, "strings in its list", example);
                continue;
            };
            if items.iter().any(|other| other.value == text) {
                let message = format!("`{}` stands in `{key}` twice", shown(text));
                self.doc.problem(&item.span(), message, "take one out");
                continue;
            }
            items.push(At { value: text.to_owned(), span: item.span() });
        }
        Some(At { value: items, span: value.span() })
    }

    // Tables.

    /// `[key]`, or `key = { … }`.
    pub(super) fn section(&mut self, key: &'static str, kind: &'static str, example: &str) -> Option<Section<'d>> {
        let (at, value) = self.entry(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_kind(value, key, "a table", example);
            return None;
        };
        let title = if self.kind.is_empty() { format!("[{key}]") } else { format!("`{key}`") };
        Some(Section { doc: self.doc, span: at.span(), kind, title, table, asked: Vec::new(), refused: Vec::new() })
    }

    /// The tables `[key.NAME]`, in the order of the file.
    pub(super) fn named(&mut self, key: &'static str, kind: &'static str) -> Vec<(At<String>, Section<'d>)> {
        let example = format!("[{key}.NAME]");
        let Some((_, value)) = self.entry(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_kind(value, key, "tables with names", &example);
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in in_file_order(table) {
            let text = name.get_ref();
            let Some(table) = value.get_ref().as_table() else {
                // An agent's key, perhaps.
                self.doc.hide(&value.span());
                self.wrong_kind(value, &format!("{key}.{}", shown(text)), "a table", &example);
                continue;
            };
            let title = format!("[{key}.{}]", shown(text));
            let section = Section {
                doc: self.doc,
                span: name.span(),
                kind,
                title,
                table,
                asked: Vec::new(),
                refused: Vec::new(),
            };
            found.push((At { value: text.to_string(), span: name.span() }, section));
        }
        found
    }

    /// The tables `[[key]]`, in the order of the file.
    pub(super) fn array(&mut self, key: &'static str) -> Vec<Section<'d>> {
        let example = format!("[[{key}]]");
        let Some((at, value)) = self.entry(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            let help = format!("write `{example}`, in double brackets");
            self.doc.problem(
                &at.span(),
                format!("`{key}` is {}, but wants a list of tables", kind_of(value.get_ref())),
                help,
            );
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in list.iter() {
            let Some(table) = item.get_ref().as_table() else {
                self.wrong_kind(item, key, "a list of tables", &example);
                continue;
            };
            let title = format!("[[{key}]]");
            found.push(Section {
                doc: self.doc,
                span: item.span(),
                kind: key,
                title,
                table,
                asked: Vec::new(),
                refused: Vec::new(),
            });
        }
        found
    }

    /// A table of strings under names of the operator's own.
    pub(super) fn string_table(&mut self, key: &'static str, example: &str) -> Vec<(At<String>, At<String>)> {
        let Some((_, value)) = self.entry(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_kind(value, key, "a table of strings", example);
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in in_file_order(table) {
            let Some(text) = value.get_ref().as_str() else {
                self.wrong_kind(value, &shown(name.get_ref()), "a string", example);
                continue;
            };
            let name = At { value: name.get_ref().to_string(), span: name.span() };
            found.push((name, At { value: text.to_owned(), span: value.span() }));
        }
        found
    }

    /// Every key that nobody asked for is unknown. Call it last.
    pub(super) fn finish(self) {
        #[cfg(test)]
        self.doc
            .known
            .borrow_mut()
            .extend(self.asked.iter().chain(&self.refused).map(|key| (self.kind, (*key).to_owned())));
        for (key, value) in in_file_order(self.table) {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) || self.refused.contains(&name) {
                continue;
            }
            if mask::names_a_secret(name) {
                self.doc.hide(&value.span());
            }
            let help = match closest(name, self.asked.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("{} knows {}", self.title, listed(self.asked.iter().copied())),
            };
            self.doc.problem(&key.span(), format!("unknown key `{}` in {}", shown(name), self.title), help);
        }
    }

    /// The name for messages, once a section knows a better one than `[[routes]]`.
    pub(super) fn rename(&mut self, title: String) {
        self.title = title;
    }
}

fn in_file_order<'d>(table: &'d DeTable<'d>) -> Vec<Entry<'d>> {
    let mut entries: Vec<Entry<'d>> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
