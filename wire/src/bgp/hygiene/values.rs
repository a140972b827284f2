//! What is wrong with one attribute, and what the RFCs want done about it. docs/HYGIENE.md is this
//! file as a table.

use crate::bgp::message::{take, take_u8, take_u16};
use crate::bgp::types::{Family, SessionKind, UpdateContext};
use crate::bgp::update::{self, Attribute, Attributes, Nlri, attr, flag};

/// What is to be done, weakest first (RFC 7606 section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Pass the attribute with its Partial bit cleared.
    ClearPartial,
    /// Leave out a second or later occurrence, keep the first.
    DiscardRepeated,
    /// Attribute discard.
    Discard,
    /// Treat-as-withdraw.
    Withdraw,
    /// Session reset.
    Reset,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    /// What is to be done.
    pub action: Action,
    /// Subcode of UPDATE Message Error for it (RFC 4271 section 6.3); read where it ends in a
    /// reset.
    pub subcode: u8,
    /// In a person's words.
    pub what: &'static str,
}

impl Problem {
    const fn discard(what: &'static str) -> Problem {
        Problem { action: Action::Discard, subcode: 0, what }
    }

    pub(super) const fn withdraw(subcode: u8, what: &'static str) -> Problem {
        Problem { action: Action::Withdraw, subcode, what }
    }

    const fn reset(subcode: u8, what: &'static str) -> Problem {
        Problem { action: Action::Reset, subcode, what }
    }
}

type Judged = Result<(), Problem>;

/// `Ok` where `good`.
#[inline]
fn ensure(good: bool, problem: Problem) -> Judged {
    if good { Ok(()) } else { Err(problem) }
}

/// Subcodes of UPDATE Message Error (RFC 4271 section 4.5).
mod sub {
    pub const ATTRIBUTE_LIST: u8 = 1;
    pub const UNRECOGNIZED: u8 = 2;
    pub const FLAGS: u8 = 4;
    pub const LENGTH: u8 = 5;
    pub const ORIGIN: u8 = 6;
    pub const NEXT_HOP: u8 = 8;
    pub const OPTIONAL: u8 = 9;
    pub const AS_PATH: u8 = 11;
}

/// The fault of an attribute that stood before.
pub(super) const fn repeated(code: u8) -> Problem {
    match code {
        attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI => {
            Problem::reset(sub::ATTRIBUTE_LIST, "the attribute stands more than once (RFC 7606 section 3.g)")
        }
        _ => Problem {
            action: Action::DiscardRepeated,
            subcode: 0,
            what: "the attribute stands more than once; the first one counts (RFC 7606 section 3.g)",
        },
    }
}

/// Judges the first occurrence of an attribute. `classic` says whether the UPDATE has an NLRI
/// field.
#[inline]
pub(super) fn judge(a: &Attribute<'_>, classic: bool, context: &UpdateContext) -> Judged {
    let external = context.kind == SessionKind::Ebgp;
    match a.code {
        // These mean nothing on this kind of session, whatever their flags and value.
        attr::LOCAL_PREF if external => {
            Err(Problem::discard("LOCAL_PREF from an external neighbour (RFC 7606 section 7.5)"))
        }
        attr::ORIGINATOR_ID if external => {
            Err(Problem::discard("ORIGINATOR_ID from an external neighbour (RFC 7606 section 7.9)"))
        }
        attr::CLUSTER_LIST if external => {
            Err(Problem::discard("CLUSTER_LIST from an external neighbour (RFC 7606 section 7.10)"))
        }
        attr::AS4_PATH | attr::AS4_AGGREGATOR if context.as4 => {
            Err(Problem::discard("an attribute for two-octet sessions only (RFC 6793 section 6)"))
        }
        attr::NEXT_HOP if !classic => flags(a)
            .and_then(|()| value(a, context))
            .map_err(|_| Problem::discard("NEXT_HOP is malformed, and nothing uses it (RFC 4760 section 3)")),
        _ => {
            flags(a)?;
            value(a, context)
        }
    }?;
    ensure(
        !is_partial_in_vain(a),
        Problem {
            action: Action::ClearPartial,
            subcode: sub::FLAGS,
            what: "the Partial bit is set where it must be 0, and cleared (RFC 4271 section 4.3)",
        },
    )
}

/// Whether the Partial bit is set on an attribute that we know and on which it must be 0: a
/// well-known one, or an optional one that is not transitive (RFC 4271 section 4.3).
#[inline]
pub(super) fn is_partial_in_vain(a: &Attribute<'_>) -> bool {
    a.flags & flag::PARTIAL != 0
        && specified_flags(a.code).is_some_and(|specified| specified != flag::OPTIONAL | flag::TRANSITIVE)
}

/// The Optional and Transitive bits of the attributes that we know (IANA "BGP Path Attributes").
const fn specified_flags(code: u8) -> Option<u8> {
    const OPTIONAL: u8 = flag::OPTIONAL;
    const BOTH: u8 = flag::OPTIONAL | flag::TRANSITIVE;
    Some(match code {
        attr::ORIGIN | attr::AS_PATH | attr::NEXT_HOP | attr::LOCAL_PREF | attr::ATOMIC_AGGREGATE => flag::TRANSITIVE,
        attr::MULTI_EXIT_DISC | attr::ORIGINATOR_ID | attr::CLUSTER_LIST => OPTIONAL,
        attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI | attr::AIGP => OPTIONAL,
        attr::AGGREGATOR | attr::COMMUNITIES | attr::EXTENDED_COMMUNITIES | attr::LARGE_COMMUNITY => BOTH,
        attr::AS4_PATH | attr::AS4_AGGREGATOR | attr::IPV6_EXTENDED_COMMUNITIES => BOTH,
        attr::PMSI_TUNNEL | attr::TUNNEL_ENCAP | attr::ONLY_TO_CUSTOMER | attr::PREFIX_SID | attr::ATTR_SET => BOTH,
        _ => return None,
    })
}

/// The attribute's flags (RFC 7606 section 3.c).
#[inline]
fn flags(a: &Attribute<'_>) -> Judged {
    let bits = a.flags & (flag::OPTIONAL | flag::TRANSITIVE);
    match specified_flags(a.code) {
        Some(specified) => ensure(bits == specified, flags_problem(a.code, bits)),
        None => ensure(
            bits & flag::OPTIONAL != 0,
            Problem::reset(sub::UNRECOGNIZED, "a well-known attribute that nobody knows (RFC 4271 section 6.3)"),
        ),
    }
}

/// What the attribute's own RFC says of wrong flags, else treat-as-withdraw.
const fn flags_problem(code: u8, bits: u8) -> Problem {
    match code {
        attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI => {
            Problem::reset(sub::OPTIONAL, "the flags are wrong (RFC 7606 section 5.3)")
        }
        attr::AIGP if bits & flag::OPTIONAL != 0 => Problem::discard("AIGP is transitive (RFC 7311 section 3.2)"),
        _ => Problem::withdraw(sub::FLAGS, "the flags are wrong (RFC 7606 section 3.c)"),
    }
}

/// The attribute's length and value.
#[inline]
fn value(a: &Attribute<'_>, context: &UpdateContext) -> Judged {
    let (value, len) = (a.value, a.value.len());
    let multiple_of = |n: usize| len != 0 && len % n == 0;
    let length = |what| Problem::withdraw(sub::LENGTH, what);
    match a.code {
        attr::ORIGIN => origin(value),
        attr::AS_PATH => as_path(value, context),
        attr::NEXT_HOP => next_hop(value, context),
        attr::MULTI_EXIT_DISC => ensure(len == 4, length("MULTI_EXIT_DISC is not of 4 octets (RFC 7606 section 7.4)")),
        attr::LOCAL_PREF => ensure(len == 4, length("LOCAL_PREF is not of 4 octets (RFC 7606 section 7.5)")),
        attr::ATOMIC_AGGREGATE => {
            ensure(len == 0, Problem::discard("ATOMIC_AGGREGATE is not empty (RFC 7606 section 7.6)"))
        }
        attr::AGGREGATOR => aggregator(value, context.as4),
        attr::COMMUNITIES => {
            ensure(multiple_of(4), length("COMMUNITIES is not some times 4 octets (RFC 7606 section 7.8)"))
        }
        attr::ORIGINATOR_ID => ensure(len == 4, length("ORIGINATOR_ID is not of 4 octets (RFC 7606 section 7.9)")),
        attr::CLUSTER_LIST => {
            ensure(multiple_of(4), length("CLUSTER_LIST is not some times 4 octets (RFC 7606 section 7.10)"))
        }
        attr::MP_REACH_NLRI => mp_reach(value, context),
        attr::MP_UNREACH_NLRI => mp_unreach(value),
        attr::EXTENDED_COMMUNITIES => {
            ensure(multiple_of(8), length("EXTENDED_COMMUNITIES is not some times 8 octets (RFC 7606 section 7.14)"))
        }
        attr::AS4_PATH => as4_path(value),
        attr::AS4_AGGREGATOR => as4_aggregator(value),
        attr::PMSI_TUNNEL => ensure(len != 0, length("PMSI_TUNNEL is empty (RFC 7606 section 4)")),
        attr::TUNNEL_ENCAP => tunnel_encap(value),
        attr::IPV6_EXTENDED_COMMUNITIES => {
            let what = "IPv6 address specific communities are not some times 20 octets (RFC 7606 section 7.15)";
            ensure(multiple_of(20), length(what))
        }
        attr::AIGP => {
            ensure(aigp_is_sound(value), Problem::discard("AIGP is malformed or at its maximum (RFC 7311 section 3.2)"))
        }
        attr::LARGE_COMMUNITY => {
            ensure(multiple_of(12), length("LARGE_COMMUNITY is not some times 12 octets (RFC 8092 section 6)"))
        }
        attr::ONLY_TO_CUSTOMER => ensure(len == 4, length("ONLY_TO_CUSTOMER is not of 4 octets (RFC 9234 section 5)")),
        attr::PREFIX_SID => {
            ensure(prefix_sid_is_sound(value), Problem::discard("PREFIX_SID is malformed (RFC 8669 section 6)"))
        }
        attr::ATTR_SET => {
            let problem = Problem::withdraw(sub::OPTIONAL, "ATTR_SET is malformed (RFC 7606 section 7.16)");
            ensure(value.get(4..).is_some_and(|inner| Attributes::new(inner).all(|a| a.is_ok())), problem)
        }
        _ => Ok(()),
    }
}

fn origin(value: &[u8]) -> Judged {
    match value {
        [0..=2] => Ok(()),
        [_] => Err(Problem::withdraw(sub::ORIGIN, "ORIGIN is not 0, 1 or 2 (RFC 7606 section 7.1)")),
        _ => Err(Problem::withdraw(sub::LENGTH, "ORIGIN is not of 1 octet (RFC 7606 section 7.1)")),
    }
}

/// Segment types of an AS_PATH (RFC 4271 section 4.3, RFC 5065 section 3).
const AS_CONFED_SEQUENCE: u8 = 3;
const AS_CONFED_SET: u8 = 4;

/// Splits a path into segments and hands each to `segment`. `Err` says what is wrong with it.
#[inline]
fn for_each_segment<'a>(
    mut rest: &'a [u8],
    as_len: usize,
    mut segment: impl FnMut(u8, &'a [u8]) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    while let Some(kind) = take_u8(&mut rest) {
        let count = take_u8(&mut rest).ok_or("AS_PATH ends within a segment header (RFC 7606 section 7.2)")?;
        if count == 0 {
            return Err("an AS_PATH segment is empty (RFC 7606 section 7.2)");
        }
        let len = usize::from(count) * as_len;
        let numbers = take(&mut rest, len).ok_or("an AS_PATH segment runs past the end (RFC 7606 section 7.2)")?;
        if !matches!(kind, 1..=4) {
            return Err("an AS_PATH segment is of an unknown type (RFC 7606 section 7.2)");
        }
        segment(kind, numbers)?;
    }
    Ok(())
}

/// Whether AS 0 stands in a segment.
#[inline]
fn has_as_0(numbers: &[u8], as_len: usize) -> bool {
    if as_len == 4 {
        numbers.chunks_exact(4).any(|asn| asn == [0; 4])
    } else {
        numbers.chunks_exact(2).any(|asn| asn == [0; 2])
    }
}

fn as_path(value: &[u8], context: &UpdateContext) -> Judged {
    let as_len = if context.as4 { 4 } else { 2 };
    let result = for_each_segment(value, as_len, |kind, numbers| {
        if has_as_0(numbers, as_len) {
            Err("AS_PATH contains AS 0 (RFC 7607 section 2)")
        } else if context.kind == SessionKind::Ebgp && matches!(kind, AS_CONFED_SEQUENCE | AS_CONFED_SET) {
            Err("confederation segments from outside the confederation (RFC 5065 section 5)")
        } else {
            Ok(())
        }
    });
    result.map_err(|what| Problem::withdraw(sub::AS_PATH, what))?;
    let confederated = context.kind != SessionKind::Confederation || value.first() == Some(&AS_CONFED_SEQUENCE);
    let what = "AS_PATH does not start with AS_CONFED_SEQUENCE (RFC 5065 section 5)";
    ensure(confederated, Problem::withdraw(sub::AS_PATH, what))
}

fn as4_path(value: &[u8]) -> Judged {
    let result = for_each_segment(value, 4, |_, numbers| if has_as_0(numbers, 4) { Err("") } else { Ok(()) });
    let problem = Problem::discard("AS4_PATH is malformed or contains AS 0 (RFC 6793 section 6, RFC 7607 section 2)");
    ensure(!value.is_empty() && result.is_ok(), problem)
}

fn next_hop(value: &[u8], context: &UpdateContext) -> Judged {
    match value {
        // Only the broadcast address is none even where the reserved range is in use.
        [240..=255, _, _, _] if context.class_e && value != [255; 4] => Ok(()),
        // "This" network, loopback, multicast and reserved addresses are no host's.
        [0 | 127 | 224.., _, _, _] => {
            let what = "NEXT_HOP is no host address (RFC 4271 section 6.3, RFC 7606 section 3.e)";
            Err(Problem::withdraw(sub::NEXT_HOP, what))
        }
        [_, _, _, _] => Ok(()),
        _ => Err(Problem::withdraw(sub::LENGTH, "NEXT_HOP is not of 4 octets (RFC 7606 section 7.3)")),
    }
}

fn aggregator(value: &[u8], as4: bool) -> Judged {
    match (value, as4) {
        ([0, 0, 0, 0, _, _, _, _], true) | ([0, 0, _, _, _, _], false) => {
            Err(Problem::discard("AGGREGATOR contains AS 0 (RFC 7607 section 2)"))
        }
        ([_, _, _, _, _, _, _, _], true) | ([_, _, _, _, _, _], false) => Ok(()),
        _ => Err(Problem::discard("AGGREGATOR is not of the session's 6 or 8 octets (RFC 7606 section 7.7)")),
    }
}

fn as4_aggregator(value: &[u8]) -> Judged {
    match value {
        [0, 0, 0, 0, _, _, _, _] => Err(Problem::discard("AS4_AGGREGATOR contains AS 0 (RFC 7607 section 2)")),
        [_, _, _, _, _, _, _, _] => Ok(()),
        _ => Err(Problem::discard("AS4_AGGREGATOR is not of 8 octets (RFC 6793 section 6)")),
    }
}

fn mp_reach(value: &[u8], context: &UpdateContext) -> Judged {
    let reset = |what| Problem::reset(sub::OPTIONAL, what);
    let Some(mp) = update::mp_reach(value) else {
        return Err(reset("the next hop of MP_REACH_NLRI runs past its end (RFC 7606 sections 5.3 and 7.11)"));
    };
    let expected = match (mp.family, mp.next_hop.len()) {
        (Family::IPV6_UNICAST, n) => matches!(n, 16 | 32),
        (Family::IPV4_UNICAST, 16 | 32) => context.extended_next_hop,
        (Family::IPV4_UNICAST, n) => n == 4,
        // Families that are carried opaquely: theirs to judge.
        _ => true,
    };
    ensure(expected, reset("the next hop of MP_REACH_NLRI has an unexpected length (RFC 7606 section 7.11)"))?;
    let splits = !mp.family.is_voted() || Nlri::check(mp.family, mp.nlri).is_some();
    ensure(splits, reset("MP_REACH_NLRI does not split into prefixes (RFC 7606 section 5.3, RFC 4760 section 7)"))?;
    if mp.family != Family::IPV4_UNICAST || mp.next_hop.len() != 4 || mp.nlri.is_empty() {
        return Ok(());
    }
    // Told on, it is a NEXT_HOP, and that would be withdrawn.
    let what = "MP_REACH_NLRI's IPv4 next hop is no host address (as NEXT_HOP's: RFC 4271 section 6.3)";
    next_hop(mp.next_hop, context).map_err(|_| Problem::withdraw(sub::NEXT_HOP, what))
}

fn mp_unreach(value: &[u8]) -> Judged {
    let reset = |what| Problem::reset(sub::OPTIONAL, what);
    let Some(mp) = update::mp_unreach(value) else {
        return Err(reset("MP_UNREACH_NLRI is shorter than its family (RFC 7606 section 5.3)"));
    };
    let splits = !mp.family.is_voted() || Nlri::check(mp.family, mp.nlri).is_some();
    ensure(splits, reset("MP_UNREACH_NLRI does not split into prefixes (RFC 7606 section 5.3, RFC 4760 section 7)"))
}

/// TLVs whose last octet must be the last octet of their last sub-TLV (RFC 9012 section 13). What a
/// tunnel type or a sub-TLV means is left to those who know it.
fn tunnel_encap(mut value: &[u8]) -> Judged {
    let withdraw = |what| Problem::withdraw(sub::OPTIONAL, what);
    ensure(!value.is_empty(), withdraw("TUNNEL_ENCAP has no TLV (RFC 9012 section 13)"))?;
    let sound = (|| {
        while !value.is_empty() {
            let _tunnel_type = take_u16(&mut value)?;
            let len = take_u16(&mut value)?;
            let mut sub_tlvs = take(&mut value, usize::from(len))?;
            while let Some(kind) = take_u8(&mut sub_tlvs) {
                let len = if kind < 128 { u16::from(take_u8(&mut sub_tlvs)?) } else { take_u16(&mut sub_tlvs)? };
                take(&mut sub_tlvs, usize::from(len))?;
            }
        }
        Some(())
    })();
    let what = "a TUNNEL_ENCAP TLV does not end where its last sub-TLV does (RFC 9012 section 13)";
    ensure(sound.is_some(), withdraw(what))
}

/// Whether AIGP's TLVs add up; their length counts type and length too, and an AIGP TLV (1) takes
/// 11 octets, of which the first must not hold the maximum.
fn aigp_is_sound(mut value: &[u8]) -> bool {
    if value.is_empty() {
        return false;
    }
    let mut is_first = true;
    while let Some(kind) = take_u8(&mut value) {
        let metric = take_u16(&mut value).and_then(|len| take(&mut value, usize::from(len).checked_sub(3)?));
        match (kind, metric) {
            (_, None) => return false,
            (1, Some(metric)) if metric.len() != 8 || (is_first && metric == [0xff; 8]) => return false,
            (1, Some(_)) => is_first = false,
            _ => {}
        }
    }
    true
}

/// Whether PREFIX_SID's TLVs add up: a Label-Index (1) takes 7 octets, an Originator SRGB (3) two
/// and some times six.
fn prefix_sid_is_sound(mut value: &[u8]) -> bool {
    if value.is_empty() {
        return false;
    }
    while let Some(kind) = take_u8(&mut value) {
        let len = take_u16(&mut value).map(usize::from);
        let Some(tlv) = len.and_then(|len| take(&mut value, len)) else {
            return false;
        };
        let good = match kind {
            1 => tlv.len() == 7,
            3 => tlv.len() >= 8 && tlv.len() % 6 == 2,
            _ => true,
        };
        if !good {
            return false;
        }
    }
    true
}
