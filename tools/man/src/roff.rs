//! Text as troff reads it (groff_man(7)).

/// Text that means nothing to troff.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '`' => out.push_str("\\(ga"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '"' => out.push_str("\\(dq"),
            '…' => out.push_str("..."),
            '×' => out.push_str("\\(mu"),
            c => out.push(c),
        }
    }
    out
}

/// A line that begins with no request.
pub(crate) fn line(text: &str) -> String {
    let guard = if text.starts_with('.') { "\\&" } else { "" };
    format!("{guard}{text}\n")
}

/// Markdown within a paragraph: `code` and **strong** are bold, *emphasis* is italic, a link is its
/// text.
pub(crate) fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '`' => between(rest, "`", "`").map(|(inner, n)| (format!("\\fB{}\\fR", escape(inner)), n)),
            '*' if rest.starts_with("**") => {
                between(rest, "**", "**").map(|(inner, n)| (format!("\\fB{}\\fR", escape(inner)), n))
            }
            '*' => between(rest, "*", "*").map(|(inner, n)| (format!("\\fI{}\\fR", escape(inner)), n)),
            '[' => between(rest, "[", "](").and_then(|(inner, n)| {
                let (_, end) = between(rest.get(n - 1..)?, "(", ")")?;
                Some((inline(inner), n - 1 + end))
            }),
            _ => None,
        };
        match taken {
            Some((text, n)) => {
                out.push_str(&text);
                rest = rest.get(n..).unwrap_or_default();
            }
            None => {
                out.push_str(&escape(&c.to_string()));
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
    }
    out
}

/// What stands between `open`, with which the text begins, and `close`; and where that ends.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<(&'t str, usize)> {
    let inner = text.strip_prefix(open)?;
    let end = inner.find(close).filter(|end| *end > 0)?;
    Some((inner.get(..end)?, open.len() + end + close.len()))
}
