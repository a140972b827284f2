//! Help as the programs print it: paragraphs, and indented lines of which some are a term with its
//! explanation behind two blanks or more.

use crate::roff::{escape, line};

/// As troff, below a heading.
pub(crate) fn roff(text: &str) -> String {
    let mut out = String::new();
    // A heading begins a paragraph itself.
    let begin = |out: &String| if out.is_empty() { "" } else { ".PP\n" };
    // A paragraph is filled, what is indented keeps its lines.
    let mut filled = false;
    let mut lines = text.lines().peekable();
    while let Some(l) = lines.next() {
        let indent = l.len() - l.trim_start().len();
        if l.trim().is_empty() {
            filled = false;
        } else if indent == 0 {
            // A colon announces what is indented.
            out.push_str(if filled { "" } else { begin(&out) });
            out.push_str(&line(&escape(l.trim_end())));
            filled = true;
        } else if let Some((term, words)) = definition(l) {
            let mut words = words.to_owned();
            // What goes on is indented further than the term.
            while let Some(next) =
                lines.next_if(|n| !n.trim().is_empty() && indent_of(n) > indent + 2 && definition(n).is_none())
            {
                words = format!("{words} {}", next.trim());
            }
            out.push_str(&format!(".TP\n\\fB{}\\fR\n{}", escape(term), line(&escape(&words))));
            filled = false;
        } else {
            out.push_str(begin(&out));
            out.push_str(".RS 4\n.nf\n");
            out.push_str(&line(&escape(l.trim_end().get(2..).unwrap_or_default())));
            while let Some(next) = lines.next_if(|n| n.starts_with("  ") && definition(n).is_none()) {
                out.push_str(&line(&escape(next.trim_end().get(2..).unwrap_or_default())));
            }
            out.push_str(".fi\n.RE\n");
            filled = false;
        }
    }
    out
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// `  term   explanation`.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (term, words) = line.trim_start().split_once("   ")?;
    let words = words.trim();
    (line.starts_with("  ") && !words.is_empty()).then_some((term, words))
}
