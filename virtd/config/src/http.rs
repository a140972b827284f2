//! `[http]`: where virtd-monitor serves. virtd checks the section with all others, and does nothing
//! with it.

use super::names::keys_of;
use super::reader::{self, Problems, Section, Value};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use toml::de::DeValue;

/// Where virtd-monitor serves unless told otherwise: on this machine alone.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);
/// Addresses to serve on; more are a mistake.
const MAX_LISTEN: usize = 16;

/// `[http]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// `listen`: addresses with ports, 1 to 16 of them.
    pub listen: Vec<SocketAddr>,
}

impl Default for Http {
    fn default() -> Http {
        Http { listen: vec![DEFAULT_LISTEN] }
    }
}

/// Reads the section.
pub(crate) fn read(value: Value<'_>, problems: &mut Problems) -> Http {
    let mut http = Http::default();
    let Some(section) = Section::open("[http]", value, keys_of("http"), problems) else { return http };
    let listed = match section.value("listen") {
        None => return http,
        Some(value) if matches!(value.get_ref(), DeValue::Array(_)) => {
            section
                .array("listen", EXPECTED, problems, |value, problems| Some((address(value, problems)?, value.span())))
        }
        Some(value) => address(value, problems).map(|address| vec![(address, value.span())]),
    };
    let Some(listed) = listed else { return http };
    http.listen.clear();
    for (address, span) in listed {
        if http.listen.contains(&address) {
            problems.at(span, format!("{address} is listed twice"), "leave it out here");
        } else if http.listen.len() == MAX_LISTEN {
            problems.at(span, format!("more than {MAX_LISTEN} addresses"), "leave it out here");
        } else {
            http.listen.push(address);
        }
    }
    if http.listen.is_empty() && problems.is_empty() {
        let help = format!("leave the key out to listen on {DEFAULT_LISTEN}");
        problems.at(section.span_of("listen"), "`listen` names no address", help);
    }
    http
}

const EXPECTED: &str = "an address with a port in quotes, like \"127.0.0.1:9180\" or \"[::1]:9180\"";

fn address(value: Value<'_>, problems: &mut Problems) -> Option<SocketAddr> {
    let given = reader::text("listen", value, EXPECTED, problems)?;
    match given.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            problems.at(
                value.span(),
                format!("`{given}` is not an address with a port"),
                format!("expected {EXPECTED}"),
            );
            None
        }
    }
}
