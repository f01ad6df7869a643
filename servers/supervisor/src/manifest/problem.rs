//! What is wrong with a manifest, with a picture of where: line, column, the line itself, a caret.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What.
    pub(super) what: String,
    /// Where, in bytes of the text, if it is somewhere.
    pub(super) at: Option<Range<usize>>,
    /// What is said at that place.
    pub(super) label: String,
    /// Other places that have to do with it.
    pub(super) beside: Vec<(Range<usize>, String)>,
    /// What to do about it.
    pub(super) help: Option<String>,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, at: Range<usize>, label: impl Into<String>) -> Self {
        Self { what: what.into(), at: Some(at), label: label.into(), beside: vec![], help: None }
    }
}

/// All that is wrong with a manifest.
#[derive(Clone, Debug)]
pub struct Problems {
    text: String,
    name: String,
    all: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(text: &str, name: &str, all: Vec<Problem>) -> Self {
        let mut all = all;
        all.sort_by_key(|problem| problem.at.as_ref().map(|at| at.start));
        Self { text: text.into(), name: name.into(), all }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Each of them: what, and at which line and column, counted from 1.
    pub fn list(&self) -> impl Iterator<Item = (&str, Option<(usize, usize)>)> {
        self.all.iter().map(|problem| {
            let place = problem.at.as_ref().map(|at| place(&self.text, at.start));
            (problem.what.as_str(), place)
        })
    }

    /// The pictures, coloured for a terminal if `coloured`.
    #[must_use]
    pub fn pictures(&self, coloured: bool) -> String {
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        let pictures: Vec<_> = self.all.iter().map(|one| self.picture(one, &renderer)).collect();
        pictures.join("\n\n")
    }

    fn picture(&self, problem: &Problem, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(problem.what.as_str());
        let Some(at) = &problem.at else {
            return renderer.render(&[annotate_snippets::Group::with_title(title)]);
        };
        let mut snippet = Snippet::source(self.text.as_str())
            .path(self.name.as_str())
            .annotation(AnnotationKind::Primary.span(at.clone()).label(problem.label.as_str()));
        for (beside, label) in &problem.beside {
            let beside = AnnotationKind::Context.span(beside.clone()).label(label.as_str());
            snippet = snippet.annotation(beside);
        }
        let mut group = title.element(snippet);
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pictures(false))
    }
}

impl std::error::Error for Problems {}

/// Line and column of a byte of `text`, counted from 1.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
}

/// The word among `known` that `word` was perhaps meant to be.
pub(super) fn suggestion<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let near = |candidate: &&str| {
        let distance = strsim::damerau_levenshtein(word, candidate);
        distance <= (candidate.chars().count() / 3).max(1)
            || (word.len() > 2 && candidate.starts_with(word))
    };
    known
        .into_iter()
        .filter(near)
        .min_by_key(|candidate| strsim::damerau_levenshtein(word, candidate))
        .map(|candidate| format!("did you mean `{candidate}`?"))
}

/// What the reader of TOML found wrong.
pub(super) fn of_toml(error: &toml::de::Error) -> Problem {
    // Which words there are stands in its message, each in back quotes: first the one that is wrong.
    let message = error.message();
    let (what, label, help) = match message.split_once(", expected ") {
        Some((head, expected)) if head.starts_with("unknown ") => {
            let word = head.split('`').nth(1).unwrap_or_default();
            let known = expected.split('`').skip(1).step_by(2);
            let help = suggestion(word, known.clone()).or_else(|| {
                let known: Vec<_> = known.collect();
                (!known.is_empty()).then(|| format!("there are: {}", known.join(", ")))
            });
            let (kind, label) = if head.starts_with("unknown field") {
                ("key", "no such key here")
            } else {
                ("value", "not one of those that there are")
            };
            (format!("unknown {kind} `{word}`"), label, help)
        }
        _ => (message.lines().collect::<Vec<_>>().join("; "), "here", None),
    };
    Problem { what, at: error.span(), label: label.into(), beside: Vec::new(), help }
}

#[cfg(test)]
mod tests {
    use super::{Problem, Problems, place, suggestion};

    #[test]
    fn places_are_counted_in_characters() {
        let text = "ä = 1\nüü = 2\n";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, text.find('2').unwrap()), (2, 6));
        assert_eq!(place(text, 1_000), (3, 1));
    }

    #[test]
    fn suggestions_are_near() {
        let known = ["program", "arguments", "after"];
        assert_eq!(suggestion("progam", known).as_deref(), Some("did you mean `program`?"));
        assert_eq!(suggestion("args", known), None);
        assert_eq!(suggestion("arg", known).as_deref(), Some("did you mean `arguments`?"));
        assert_eq!(suggestion("zebra", known), None);
    }

    #[test]
    fn a_picture_has_line_column_and_caret() {
        let text = "[task.a]\nprogram = 5\n";
        let at = text.find('5').unwrap();
        let help = Some("quote it".into());
        let problem = Problem { help, ..Problem::new("no text", at..at + 1, "here") };
        let problems = Problems::new(text, "x.toml", vec![problem]);
        let expected = "\
error: no text
 --> x.toml:2:11
  |
2 | program = 5
  |           ^ here
  |
  = help: quote it";
        assert_eq!(problems.to_string(), expected);
        assert_eq!(problems.list().collect::<Vec<_>>(), [("no text", Some((2, 11)))]);
    }
}
