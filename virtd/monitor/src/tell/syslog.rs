//! Syslog's messages (RFC 5424), with what an event says as structured data.

use super::News;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use virtd_config::alert::{Level, Syslog, Target};

/// Octets of a message at most: receivers cut what is longer (rsyslog after 8 KiB).
const MAX_MESSAGE: usize = 8 << 10;
/// What our structured data is called. The number is the one for documentation (RFC 5612): virtd has
/// none of its own.
const SD_ID: &str = "virtd@32473";
/// Octets of MSGID (RFC 5424, section 6).
const MAX_MSGID: usize = 32;

/// The way there.
pub(super) struct Line {
    syslog: Syslog,
    host: String,
    /// With [`Target::Tcp`], once there is one.
    stream: Option<TcpStream>,
}

impl Line {
    pub fn new(syslog: Syslog) -> Line {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Line { syslog, host: header(host.trim(), 255), stream: None }
    }

    pub fn target(&self) -> &Target {
        &self.syslog.target
    }

    /// One message.
    pub async fn send(&mut self, news: &News) -> io::Result<()> {
        let message = message(news, self.syslog.facility, &self.host);
        match &self.syslog.target {
            Target::Local(path) => UnixDatagram::unbound()?.send_to(&message, path).await.map(drop),
            Target::Udp(host, port) => {
                let mut addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
                let address = addresses.next().ok_or_else(|| io::Error::other("the name has no address"))?;
                let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let any: std::net::IpAddr = any;
                let socket = UdpSocket::bind((any, 0)).await?;
                // Connected, so that it is told where nobody listens.
                socket.connect(address).await?;
                socket.send(&message).await.map(drop)
            }
            Target::Tcp(host, port) => {
                let mut stream = match self.stream.take() {
                    Some(stream) => stream,
                    None => TcpStream::connect((host.as_str(), *port)).await?,
                };
                is_open(&stream)?;
                let framed = [format!("{} ", message.len()).as_bytes(), &message].concat();
                stream.write_all(&framed).await?;
                self.stream = Some(stream);
                Ok(())
            }
        }
    }
}

/// Nothing is ever said over it: what there is to read is its end.
fn is_open(stream: &TcpStream) -> io::Result<()> {
    match stream.try_read(&mut [0; 64]) {
        Ok(0) => Err(io::ErrorKind::ConnectionAborted.into()),
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(()),
    }
}

/// A field of the header: printable ASCII without spaces, `-` where nothing is left.
fn header(text: &str, max: usize) -> String {
    let kept: String = text.chars().filter(char::is_ascii_graphic).take(max).collect();
    if kept.is_empty() { "-".to_owned() } else { kept }
}

/// The value of a parameter (RFC 5424, section 6.3.3).
fn value(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// An event as a message.
fn message(news: &News, facility: u8, host: &str) -> Vec<u8> {
    let event = &news.logged.event;
    let severity = match news.level() {
        Level::Info => 6,
        Level::Warning => 4,
        Level::Alarm => 2,
    };
    let (priority, kind) = (u16::from(facility) * 8 + severity, header(&event.kind, MAX_MSGID));
    let time = header(&news.logged.time, MAX_MSGID);
    let head = format!("<{priority}>1 {time} {host} virtd - {kind} ");
    let mut data = format!("[{SD_ID} seq=\"{}\" severity=\"{}\"", news.logged.seq, value(&event.severity));
    let uid = event.uid.map(|uid| uid.to_string());
    for (name, given) in
        [("session", &event.session), ("instance", &event.instance), ("prefix", &event.prefix), ("uid", &uid)]
    {
        if let Some(given) = given {
            data += &format!(" {name}=\"{}\"", value(given));
        }
    }
    // Without the mark of UTF-8: a message of ASCII needs none, and receivers show it.
    let text: String = event.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for said in &event.said {
        let more = format!(" said=\"{}\"", value(&format!("{}: {}", said.instance, said.route)));
        if head.len() + data.len() + more.len() + text.len() + 2 > MAX_MESSAGE {
            break;
        }
        data += &more;
    }
    let mut whole = format!("{head}{data}] {text}");
    if whole.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
        whole.truncate(end);
    }
    whole.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtd_api::{Event, Logged, Said};

    fn news(mut event: Event) -> News {
        event.at_us = 5;
        News::of(String::new(), Logged { seq: 7, time: "2026-12-01T10:00:00.123Z".to_owned(), event })
    }

    fn text(event: Event) -> String {
        String::from_utf8(message(&news(event), 3, "router")).expect("UTF-8")
    }

    #[test]
    fn a_message_has_the_form_of_the_rfc() {
        let mut event = Event::new(0, "poison".to_owned(), "warning".to_owned(), "it\ndied").with_instance("frr");
        event.prefix = Some("192.0.2.0/24".to_owned());
        event.said = vec![Said { instance: "bird".to_owned(), route: "via \"a\\b]\"".to_owned(), counted: true }];
        assert_eq!(
            text(event),
            "<28>1 2026-12-01T10:00:00.123Z router virtd - poison [virtd@32473 seq=\"7\" severity=\"warning\" \
             instance=\"frr\" prefix=\"192.0.2.0/24\" said=\"bird: via \\\"a\\\\b\\]\\\"\"] it died"
        );
        let odd = text(Event::new(0, "a b\u{e4}".to_owned(), "info".to_owned(), "\u{e4}"));
        assert_eq!(
            odd,
            "<30>1 2026-12-01T10:00:00.123Z router virtd - ab [virtd@32473 seq=\"7\" severity=\"info\"] \u{e4}"
        );
        assert!(
            text(Event::new(0, String::new(), "alarm".to_owned(), "x"))
                .starts_with("<26>1 2026-12-01T10:00:00.123Z router virtd - - [")
        );
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let said = Said { instance: "frr".to_owned(), route: "]".repeat(3000), counted: true };
        let mut event = Event::new(0, "disagreement".to_owned(), "warning".to_owned(), "short");
        event.said = vec![said; 5];
        let whole = text(event);
        assert!(whole.len() <= MAX_MESSAGE && whole.ends_with("] short") && whole.matches(" said=").count() == 1);
        let whole = text(Event::new(0, "x".to_owned(), "info".to_owned(), "\u{e4}".repeat(MAX_MESSAGE)));
        assert!(whole.len() >= MAX_MESSAGE - 1 && whole.len() <= MAX_MESSAGE && whole.contains("] \u{e4}"));
    }
}
