//! How simulated instances and peers answer what they are told.

use super::*;

impl SimInstance {
    /// The peers of its legs, in the order in which it was offered them.
    pub fn legs(&self) -> Vec<u8> {
        self.legs.iter().map(|l| l.peer).collect()
    }

    /// A leg is gone, and with it what was learnt on it: what it says on the others.
    pub(super) fn close(&mut self, style: usize, leg: LegId) -> Vec<(u64, Bytes)> {
        let Some(peer) = self.legs.iter().find(|l| l.id == leg.0).map(|l| l.peer) else { return vec![] };
        self.legs.retain(|l| l.id != leg.0);
        let frozen = self.fault.frozen;
        let (gone, kept) = std::mem::take(&mut self.rib).into_iter().partition(|((p, _), _)| *p == peer);
        let gone: BTreeMap<(u8, Prefix), Vec<u32>> = gone;
        self.rib = kept;
        let others: Vec<(u64, u8)> =
            self.legs.iter().filter(|l| l.up && l.peer != peer).map(|l| (l.id, l.peer)).collect();
        let mut said = Vec::new();
        for (_, prefix) in gone.into_keys().filter(|_| !frozen) {
            for (id, to) in &others {
                let path = self.best(*to, prefix, None);
                said.extend(self.says(style, *to, prefix, path.as_deref()).map(|bytes| (*id, bytes)));
            }
        }
        said
    }

    /// What it answers to a message: (leg, bytes).
    pub(super) fn hear(&mut self, style: usize, leg: u64, m: &Message) -> Vec<(u64, Bytes)> {
        let Some(l) = self.legs.iter_mut().find(|l| l.id == leg) else { return vec![] };
        let from = l.peer;
        match m.kind {
            MessageType::Open => {
                l.up = true;
                let open = Open::decode(m.body()).expect("the router never sends a malformed OPEN");
                l.narrow = !open.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)));
                let mut answers = vec![(leg, keepalive())];
                // A new session is given everything known from the others.
                for ((p, prefix), path) in self.rib.clone() {
                    if p != from {
                        let path = self.best(from, prefix, Some(path)).expect("a path");
                        answers.extend(self.says(style, from, prefix, Some(&path)).map(|b| (leg, b)));
                    }
                }
                answers
            }
            MessageType::Update => {
                let u = Update::parse(m.body()).expect("the router never sends an instance a malformed UPDATE here");
                if u.end_of_rib().is_some() {
                    self.eor_heard += 1;
                    return vec![];
                }
                self.heard.push((from, u.nlri.collect(), u.withdrawn.collect()));
                let path = path_of(&u);
                let mut changes: Vec<(Prefix, Option<Vec<u32>>)> = u.withdrawn.map(|p| (p, None)).collect();
                changes.extend(u.nlri.map(|p| (p, Some(path.clone()))));
                let others: Vec<(u64, u8)> =
                    self.legs.iter().filter(|l| l.up && l.peer != from).map(|l| (l.id, l.peer)).collect();
                let mut answers = Vec::new();
                for (prefix, path) in changes {
                    match &path {
                        Some(p) => drop(self.rib.insert((from, prefix), p.clone())),
                        None => drop(self.rib.remove(&(from, prefix))),
                    }
                    for (id, peer) in &others {
                        let path = self.best(*peer, prefix, path.clone());
                        answers.extend(self.says(style, *peer, prefix, path.as_deref()).map(|b| (*id, b)));
                    }
                }
                answers
            }
            _ => vec![],
        }
    }

    /// What it says to a peer of a prefix of which it has last heard this.
    fn best(&self, to: u8, prefix: Prefix, last: Option<Vec<u32>>) -> Option<Vec<u32>> {
        if !self.decides {
            return last;
        }
        let others = self.rib.iter().filter(|((p, of), _)| *p != to && *of == prefix);
        others.min_by_key(|((p, _), path)| (path.len(), *path, *p)).map(|(_, path)| path.clone())
    }

    fn says(&self, style: usize, to: u8, prefix: Prefix, path: Option<&[u32]>) -> Option<Bytes> {
        if self.fault.hides.contains(&prefix) {
            return None;
        }
        let med = self.fault.lies_about.contains(&prefix).then_some(666);
        Some(match path {
            None => update(&[], &[prefix], &[], LOCAL, None, style),
            Some(path) => {
                let path: Vec<u32> = std::iter::once(OUR_AS).chain(path.iter().copied()).collect();
                match self.legs.iter().any(|l| l.peer == to && l.narrow) {
                    true => narrow_update(&prefix, &path, LOCAL),
                    false => update(&[prefix], &[], &path, LOCAL, med, style),
                }
            }
        })
    }
}

impl SimPeer {
    /// True where a KEEPALIVE is due in answer.
    pub(super) fn hear(&mut self, m: &Message) -> bool {
        match m.kind {
            MessageType::Open => {
                self.open = Open::decode(m.body()).ok();
                self.open_extended = Open::is_extended(m.body());
                return true;
            }
            MessageType::Keepalive => self.established = true,
            MessageType::Notification => self.notifications.extend(Notification::decode(m.body())),
            MessageType::Update => {
                let u = Update::parse(m.body()).expect("the router never sends a malformed UPDATE");
                if u.end_of_rib().is_some() {
                    self.eor += 1;
                    return false;
                }
                self.updates += 1;
                self.raw.push(m.bytes.clone());
                for p in u.withdrawn {
                    self.table.remove(&p);
                    self.history.push((p, None, false));
                }
                let (path, med) = (path_of(&u), med_of(&u));
                for p in u.nlri {
                    let before = self.table.insert(p, (path.clone(), med));
                    self.repeated.extend(before.filter(|b| *b == (path.clone(), med)).map(|_| p));
                    self.history.push((p, med, true));
                    self.paths.push(path.clone());
                }
            }
            MessageType::RouteRefresh => {}
        }
        false
    }
}

fn path_of(u: &Update<'_>) -> Vec<u32> {
    let value =
        Attributes::new(u.attributes).flatten().find(|a| a.code == attr::AS_PATH).map(|a| a.value).unwrap_or_default();
    // Of two octets a number towards a peer that knows no more.
    members(value, 4).or_else(|| members(value, 2)).expect("the router never sends a malformed path")
}

/// All numbers of a path's segments, each of so many octets.
fn members(value: &[u8], width: usize) -> Option<Vec<u32>> {
    let (mut rest, mut path) = (value, Vec::new());
    while let [_, count, tail @ ..] = rest {
        let octets = tail.get(..width * usize::from(*count))?;
        path.extend(octets.chunks(width).map(|c| c.iter().fold(0, |n, octet| n << 8 | u32::from(*octet))));
        rest = &tail[octets.len()..];
    }
    rest.is_empty().then_some(path)
}

fn med_of(u: &Update<'_>) -> Option<u32> {
    let a = Attributes::new(u.attributes).flatten().find(|a| a.code == attr::MULTI_EXIT_DISC)?;
    Some(u32::from_be_bytes(a.value.try_into().ok()?))
}

/// What an [`update`] that announces one prefix says to somebody who knows AS numbers of two octets only.
pub fn narrow_update(announced: &Prefix, path: &[u32], next_hop: Ipv4Addr) -> Bytes {
    let mut attributes = vec![0x40, attr::ORIGIN, 1, 0];
    attributes.extend([0x40, attr::AS_PATH, 2 + 2 * path.len() as u8, 2, path.len() as u8]);
    // AS_TRANS (RFC 6793).
    path.iter().for_each(|asn| attributes.extend(u16::try_from(*asn).unwrap_or(23456).to_be_bytes()));
    attributes.extend([0x40, attr::NEXT_HOP, 4]);
    attributes.extend(next_hop.octets());
    let mut m = vec![0xff; 16];
    m.extend(((HEADER_LEN + 4 + attributes.len() + 1 + announced.octets().len()) as u16).to_be_bytes());
    m.extend([2, 0, 0]);
    m.extend((attributes.len() as u16).to_be_bytes());
    m.extend(attributes);
    m.push(announced.len());
    m.extend_from_slice(announced.octets());
    Bytes::from(m)
}
