//! What the daemons print, into virtd's log.

use std::io::{self, BufRead, BufReader, Read};

/// Longer lines are cut into several.
const MAX_LINE: u64 = 2048;

/// A daemon's output, line by line.
pub(super) fn forward(name: &str, stream: impl Read) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => log::info!(target: "virtd::instance", "{name}: {}", printable(&line)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                log::warn!("{name}: its output cannot be read any more: {e}");
                return;
            }
        }
    }
}

/// Instances are not trusted with an operator's terminal.
pub(super) fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
