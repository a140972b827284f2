//! What is wrong with a configuration file, and where: `file:line:column`, the line itself, what
//! was expected.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// More problems than this in one file help nobody.
pub const MAX_PROBLEMS: usize = 20;
/// Source lines are cut after this many characters: a line may hold a whole array.
const MAX_LINE: usize = 160;

/// Shorter pieces of a word are chance, not a hint.
const MIN_PART: usize = 4;

/// One thing that is wrong, with its place as octet offsets into the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where; `None` where the file lacks something as a whole.
    pub span: Option<Range<usize>>,
    /// What is wrong, one line.
    pub message: String,
    /// What was expected, or what to do, one line.
    pub help: Option<String>,
}

/// A configuration file that cannot be used. Its `Display` is what an operator reads: every problem
/// with the line it is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    file: PathBuf,
    source: String,
    problems: Vec<Problem>,
}

impl ConfigError {
    /// The problems of `file`, whose text is `source`, in the order of the file.
    pub fn new(file: &Path, source: &str, mut problems: Vec<Problem>) -> ConfigError {
        problems.sort_by_key(|p| p.span.as_ref().map_or(usize::MAX, |s| s.start));
        ConfigError { file: file.to_owned(), source: source.to_owned(), problems }
    }

    /// What is wrong, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn write_problem(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        let Some(span) = &problem.span else {
            write!(f, "{}: {}", self.file.display(), problem.message)?;
            return match &problem.help {
                Some(help) => write!(f, "\n  = {help}"),
                None => Ok(()),
            };
        };
        let place = Place::of(&self.source, span);
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{}:{}:{}: {}", self.file.display(), place.line, place.column, problem.message)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", place.text)?;
        write!(f, "{gutter} | {}{}", place.indent, "^".repeat(place.width))?;
        match &problem.help {
            Some(help) => write!(f, "\n{gutter} = {help}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().take(MAX_PROBLEMS).enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            self.write_problem(f, problem)?;
        }
        match self.problems.len() {
            0 | 1 => Ok(()),
            n if n > MAX_PROBLEMS => write!(f, "\n\n{n} errors, the first {MAX_PROBLEMS} are shown"),
            n => write!(f, "\n\n{n} errors"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// A span as a person counts: from line 1 and column 1, in characters.
struct Place {
    line: usize,
    column: usize,
    /// The line, without its end, cut if long.
    text: String,
    /// What stands under the line before the marker; tabs are kept so that it lines up.
    indent: String,
    /// Characters to mark, at least one, at most to the end of the line.
    width: usize,
}

impl Place {
    fn of(source: &str, span: &Range<usize>) -> Place {
        let (line, start) = line_and_start(source, span.start);
        let rest = source.get(start..).unwrap_or("");
        let text = rest.split('\n').next().unwrap_or("").trim_end_matches('\r');
        let before = source.get(start..span.start.min(start + text.len())).unwrap_or("");
        let marked = source.get(span.start..span.end.min(start + text.len())).unwrap_or("");
        let column = before.chars().count() + 1;
        let width = marked.chars().count().clamp(1, MAX_LINE);
        let indent = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let mut shown: String = text.chars().take(MAX_LINE.max(column + width)).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Place { line, column, text: shown, indent, width }
    }
}

/// Line (from 1) of an offset, and the offset that line starts at.
fn line_and_start(source: &str, offset: usize) -> (usize, usize) {
    let before = source.as_bytes().get(..offset.min(source.len())).unwrap_or(&[]);
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    (line, start)
}

/// The line (from 1) an offset is in.
pub fn line_of(source: &str, offset: usize) -> usize {
    line_and_start(source, offset).0
}

/// The one of `known` that `given` was probably meant to be.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |s: &str| s.to_lowercase().replace(['_', ' '], "-");
    let given = fold(given);
    // Part of a word is as good a hint as a slip of the finger: `majority` for
    // `continuous-majority`.
    let score = |candidate: &str| {
        let candidate = fold(candidate);
        let part = given.len() >= MIN_PART && candidate.contains(&given);
        strsim::jaro_winkler(&given, &candidate).max(if part { 0.81 } else { 0.0 })
    };
    known
        .into_iter()
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `` `a`, `b` or `c` ``.
pub fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|w| format!("`{w}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
