//! journald's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram of fields for each entry.

use super::News;
use std::io;
use std::path::Path;
use tokio::net::UnixDatagram;
use virtd_config::alert::Level;

/// One entry. Where it is too long for a datagram, the event's JSON is left out.
pub(super) async fn send(socket: &Path, news: &News) -> io::Result<()> {
    let journal = UnixDatagram::unbound()?;
    match journal.send_to(&entry(news, true), socket).await {
        Err(e) if e.raw_os_error() == Some(nix::libc::EMSGSIZE) => journal.send_to(&entry(news, false), socket).await,
        sent => sent,
    }
    .map(drop)
}

fn entry(news: &News, whole: bool) -> Vec<u8> {
    let event = &news.logged.event;
    let priority = match news.level() {
        Level::Info => "6",
        Level::Warning => "4",
        Level::Alarm => "2",
    };
    let (seq, uid) = (news.logged.seq.to_string(), event.uid.map(|uid| uid.to_string()));
    let fields = [
        ("MESSAGE", Some(event.text.as_str())),
        ("PRIORITY", Some(priority)),
        ("SYSLOG_IDENTIFIER", Some("virtd")),
        ("VIRTD_KIND", Some(event.kind.as_str())),
        ("VIRTD_SEVERITY", Some(event.severity.as_str())),
        ("VIRTD_SEQ", Some(seq.as_str())),
        ("VIRTD_TIME", Some(news.logged.time.as_str())),
        ("VIRTD_SESSION", event.session.as_deref()),
        ("VIRTD_INSTANCE", event.instance.as_deref()),
        ("VIRTD_PREFIX", event.prefix.as_deref()),
        ("VIRTD_UID", uid.as_deref()),
        ("VIRTD_EVENT", Some(news.json.as_str()).filter(|_| whole)),
    ];
    let mut out = Vec::new();
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        out.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            // In the form for any octets: its length, 64 bits, little endian.
            out.push(b'\n');
            out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            out.push(b'=');
        }
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtd_api::{Event, Logged};

    #[test]
    fn a_field_with_a_line_feed_cannot_make_another() {
        let event = Event::new(0, "poison".to_owned(), "alarm".to_owned(), "a\nPRIORITY=0").with_session("192.0.2.1");
        let news = News::of("{}".to_owned(), Logged { seq: 7, time: "now".to_owned(), event });
        let mut wanted = b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nPRIORITY=2\nSYSLOG_IDENTIFIER=virtd\n".to_vec();
        wanted.extend_from_slice(b"VIRTD_KIND=poison\nVIRTD_SEVERITY=alarm\nVIRTD_SEQ=7\nVIRTD_TIME=now\n");
        wanted.extend_from_slice(b"VIRTD_SESSION=192.0.2.1\nVIRTD_EVENT={}\n");
        assert_eq!(String::from_utf8_lossy(&entry(&news, true)), String::from_utf8_lossy(&wanted));
        assert!(!String::from_utf8_lossy(&entry(&news, false)).contains("VIRTD_EVENT"));
    }
}
