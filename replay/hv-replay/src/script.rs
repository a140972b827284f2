//! The small language of `--script`: one command a line, from a file or as it is typed.

use crate::feed::{Item, Source};
use crate::options::{duration, family, hex};
use crate::route::{Route, Segment, segment};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use wire::bgp::Prefix;
use wire::bgp::update::{attr, flag};

/// What `--help` says of the language.
pub const HELP: &str = "\
Script commands, one a line, # starts a comment:
  announce PREFIX[,PREFIX...] [next-hop ADDR] [as-path ASN... {ASN,ASN}] [origin igp|egp|incomplete]
           [med N] [local-pref N] [community A:B...] [large-community A:B:C...] [aggregator ASN ADDR]
           [atomic-aggregate] [attribute FLAGS CODE HEX]    (all numbers of FLAGS and CODE in decimal or 0x..)
  withdraw PREFIX[,PREFIX...]
  raw HEX                     octets as they are, header and all
  eor [ipv4|ipv6]             End-of-RIB, of all families unless one is named
  refresh ipv4|ipv6           ask the neighbour for its routes again
  wait 400ms                  do nothing for so long
  wait-routes N               do nothing until N prefixes are known from the neighbour
  notification CODE SUBCODE   end the session with a NOTIFICATION
  drop                        end it by closing the connection
  exit                        stop, as Ctrl-C does";

/// Lines typed ahead of what was sent; the reader waits when there are more.
const TYPED_AHEAD: usize = 10_000;

/// A script as a [`Source`].
#[derive(Debug)]
pub struct Script {
    lines: Lines,
    items: VecDeque<Item>,
    number: usize,
}

#[derive(Debug)]
enum Lines {
    File(std::vec::IntoIter<String>),
    Typed(Receiver<String>),
}

impl Script {
    /// Reads the script at `path`; all of it is checked before anything is sent.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not understood.
    pub fn open(path: &Path) -> Result<Script> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
        for (n, line) in lines.iter().enumerate() {
            parse(line).with_context(|| format!("{}, line {}", path.display(), n + 1))?;
        }
        Ok(Script { lines: Lines::File(lines.into_iter()), items: VecDeque::new(), number: 0 })
    }

    /// Reads standard input on a thread of its own; `wake` is called for each line.
    pub fn typed(wake: impl Fn() + Send + 'static) -> Script {
        let (sender, receiver) = sync_channel(TYPED_AHEAD);
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
                wake();
            }
            drop(sender);
            wake();
        });
        Script { lines: Lines::Typed(receiver), items: VecDeque::new(), number: 0 }
    }
}

impl Source for Script {
    fn next(&mut self) -> Result<Option<Item>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            self.number += 1;
            match &mut self.lines {
                Lines::File(lines) => {
                    let Some(line) = lines.next() else { return Ok(None) };
                    self.items = parse(&line).with_context(|| format!("line {}", self.number))?.into();
                }
                Lines::Typed(lines) => match lines.try_recv() {
                    // A slip of the finger must not cost the session.
                    Ok(line) => match parse(&line) {
                        Ok(items) => self.items = items.into(),
                        Err(e) => log::error!("line {}: {e:#}", self.number),
                    },
                    Err(TryRecvError::Empty) => {
                        self.number -= 1;
                        return Ok(Some(Item::Pending));
                    }
                    Err(TryRecvError::Disconnected) => return Ok(None),
                },
            }
        }
    }
}

/// Reads one line.
///
/// # Errors
/// It is not a command, or its arguments are wrong.
pub fn parse(line: &str) -> Result<Vec<Item>> {
    let line = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((command, arguments)) = words.split_first() else { return Ok(Vec::new()) };
    let one = || match arguments {
        [one] => Ok(*one),
        _ => Err(anyhow!("{command} takes one argument")),
    };
    let fam = |text| family(text).map_err(anyhow::Error::msg);
    let item = match *command {
        "announce" => return announce(arguments),
        "withdraw" => return Ok(by_family(&prefixes(one()?)?).map(Item::Withdraw).collect()),
        "raw" => Item::Raw(Bytes::from(hex(&arguments.concat()).map_err(anyhow::Error::msg)?)),
        "eor" if arguments.is_empty() => Item::EndOfRib(None),
        "eor" => Item::EndOfRib(Some(fam(one()?)?)),
        "refresh" => Item::Refresh(fam(one()?)?),
        "wait" => Item::Wait(duration(one()?).map_err(anyhow::Error::msg)?),
        "wait-routes" => Item::WaitRoutes(one()?.parse().context("wait-routes takes a number")?),
        "notification" => match arguments {
            [code, subcode] => Item::Notify(number(code)?, number(subcode)?),
            _ => bail!("notification takes CODE and SUBCODE"),
        },
        "drop" => Item::Drop,
        "exit" => Item::Exit,
        other => bail!(
            "{other:?} is not a command: announce, withdraw, raw, eor, refresh, wait, wait-routes, notification, drop, exit"
        ),
    };
    Ok(vec![item])
}

fn prefixes(list: &str) -> Result<Vec<Prefix>> {
    list.split(',').map(|p| p.parse().map_err(anyhow::Error::msg)).collect()
}

/// A list cut where its family changes, since an item is of one family.
fn by_family(prefixes: &[Prefix]) -> impl Iterator<Item = Vec<Prefix>> {
    prefixes.chunk_by(|a, b| a.family() == b.family()).map(<[Prefix]>::to_vec)
}

/// A number in decimal, or in hexadecimal behind 0x.
fn number(text: &str) -> Result<u8> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text:?}: expected a number from 0 to 255"))
}

const KEYWORDS: [&str; 10] = [
    "next-hop",
    "as-path",
    "origin",
    "med",
    "local-pref",
    "community",
    "large-community",
    "aggregator",
    "atomic-aggregate",
    "attribute",
];

fn announce(arguments: &[&str]) -> Result<Vec<Item>> {
    let Some((list, mut rest)) = arguments.split_first() else { bail!("announce takes a prefix") };
    let mut route = Route { path: Some(Vec::new()), ..Route::default() };
    route.put(attr::ORIGIN, flag::TRANSITIVE, &[0]);
    while let Some((keyword, tail)) = rest.split_first() {
        if !KEYWORDS.contains(keyword) {
            bail!("{keyword:?}: expected one of {}", KEYWORDS.join(", "));
        }
        let end = tail.iter().position(|w| KEYWORDS.contains(w)).unwrap_or(tail.len());
        let (values, next) = tail.split_at(end);
        attribute(&mut route, keyword, values).with_context(|| format!("{keyword} {}", values.join(" ")))?;
        rest = next;
    }
    let prefixes = prefixes(list)?;
    Ok(by_family(&prefixes).map(|prefixes| Item::Announce { route: Box::new(route.clone()), prefixes }).collect())
}

fn attribute(route: &mut Route, keyword: &str, values: &[&str]) -> Result<()> {
    let transitive = flag::OPTIONAL | flag::TRANSITIVE;
    match (keyword, values) {
        ("next-hop", [addr]) => route.next_hop = Some(addr.parse::<IpAddr>()?),
        ("as-path", asns) => route.path = Some(path(&asns.join(" "))?),
        ("origin", [origin]) => {
            let known = ["igp", "egp", "incomplete"].iter().position(|o| o.eq_ignore_ascii_case(origin));
            let value = known.and_then(|n| u8::try_from(n).ok()).context("expected igp, egp or incomplete")?;
            route.put(attr::ORIGIN, flag::TRANSITIVE, &[value]);
        }
        ("med", [n]) => route.put(attr::MULTI_EXIT_DISC, flag::OPTIONAL, &n.parse::<u32>()?.to_be_bytes()),
        ("local-pref", [n]) => route.put(attr::LOCAL_PREF, flag::TRANSITIVE, &n.parse::<u32>()?.to_be_bytes()),
        ("community", list) => route.put(attr::COMMUNITIES, transitive, &numbers::<2>(list, 16)?),
        ("large-community", list) => route.put(attr::LARGE_COMMUNITY, transitive, &numbers::<3>(list, 32)?),
        ("aggregator", [asn, addr]) => {
            let value = [asn.parse::<u32>()?.to_be_bytes(), addr.parse::<Ipv4Addr>()?.octets()].concat();
            route.put(attr::AGGREGATOR, transitive, &value);
        }
        ("atomic-aggregate", []) => route.put(attr::ATOMIC_AGGREGATE, flag::TRANSITIVE, &[]),
        ("attribute", [flags, code, value @ ..]) => {
            let (flags, code) = (number(flags)?, number(code)?);
            // Said in so many words, it replaces whatever the route would have had.
            if code == attr::AS_PATH {
                route.path = None;
            }
            route.put(code, flags & !flag::EXTENDED, &hex(&value.concat()).map_err(anyhow::Error::msg)?);
        }
        _ => bail!("wrong number of values"),
    }
    Ok(())
}

/// `A:B` or `A:B:C`, each part of so many bits, as octets.
fn numbers<const PARTS: usize>(list: &[&str], bits: u32) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for text in list {
        let parts: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>()?;
        if parts.len() != PARTS || parts.iter().any(|p| u64::from(*p) >> bits != 0) {
            bail!("{text:?}: expected {PARTS} numbers of {bits} bits with colons between");
        }
        for part in parts {
            out.extend(part.to_be_bytes().get(4 - bits as usize / 8..).unwrap_or_default());
        }
    }
    Ok(out)
}

/// `64500 64501 {64502,64503}`.
///
/// # Errors
/// Something else than numbers and sets of them.
pub fn path(text: &str) -> Result<Vec<Segment>> {
    let mut out: Vec<Segment> = Vec::new();
    for word in text.split_whitespace() {
        if let Some(set) = word.strip_prefix('{') {
            let set = set.strip_suffix('}').context("a set ends with }")?;
            let asns = set.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
            out.push(Segment { kind: segment::SET, asns });
            continue;
        }
        let asn = word.parse().with_context(|| format!("{word:?} is not an AS number"))?;
        match out.last_mut().filter(|s| s.kind == segment::SEQUENCE && s.asns.len() < 255) {
            Some(s) => s.asns.push(asn),
            None => out.push(Segment { kind: segment::SEQUENCE, asns: vec![asn] }),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_command_is_understood() {
        let [Item::Announce { route, prefixes }] = &parse(
            "announce 198.51.100.0/24,198.51.101.0/24 next-hop 192.0.2.9 as-path 64500 64999 {1,2} community 1:2 3:4 \
             large-community 70000:1:2 med 5 aggregator 64500 192.0.2.1 atomic-aggregate attribute 0xc0 99 0102 # odd",
        )
        .expect("understood")[..] else {
            panic!("one announcement");
        };
        assert_eq!(prefixes.len(), 2);
        assert_eq!(route.next_hop, Some(Ipv4Addr::new(192, 0, 2, 9).into()));
        assert_eq!(route.path, Some(path("64500 64999 {1,2}").expect("a path")));
        let value = |code| route.other.iter().find(|raw| raw.code == code).map(|raw| raw.value.clone());
        assert_eq!(value(attr::COMMUNITIES), Some(vec![0, 1, 0, 2, 0, 3, 0, 4]));
        assert_eq!(value(99), Some(vec![1, 2]));
        assert_eq!(parse("wait 400ms").expect("understood"), [Item::Wait(Duration::from_millis(400))]);
        assert_eq!(parse("raw ff ff").expect("understood"), [Item::Raw(Bytes::from_static(&[255, 255]))]);
        assert_eq!(parse("  # nothing").expect("understood"), []);
        assert_eq!(parse("withdraw 10.0.0.0/8,2001:db8::/32").expect("understood").len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, word) in [
            ("anounce 10.0.0.0/8", "anounce"),
            ("announce 10.0.0.0/33", "/33"),
            ("announce 10.0.0.0/8 via 192.0.2.1", "via"),
            ("announce 10.0.0.0/8 community 1:70000", "70000"),
            ("wait soon", "soon"),
        ] {
            let error = format!("{:#}", parse(line).expect_err(line));
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
