//! What a router must do with a malformed UPDATE: RFC 7606's table, RFC 4271 section 6.3 where it
//! still stands, RFC 7607 (AS 0), and the error handling sections of the RFCs of each attribute.
//!
//! The broker uses this twice. On what a *peer* sends, before replicating (`inbound = "rfc7606"`,
//! docs/DECISIONS.md, "Hygiene on the way in"; with `"opaque"` only [`Verdict::Reset`] is acted
//! on). On what an *instance* sends, always: what the peer would have to treat as withdraw is a
//! candidate "none", what it would have to discard is no part of the candidate.
//!
//! docs/HYGIENE.md lists every check, by RFC, with the action for eBGP, iBGP and confederation
//! sessions.

mod rewrite;
mod values;

use super::canonical::AttributeSet;
use super::frame::{HEADER_LEN, MAX_LEN_EXTENDED};
use super::types::{Family, Notification, UpdateContext};
use super::update::{self, Attribute, Attributes, Fields, MpReach, MpUnreach, Nlri, attr};
use values::{Action, Problem};

/// Findings kept of one UPDATE: enough to say what is wrong; a message can hold 20,000 faulty
/// attributes.
pub(crate) const MAX_FINDINGS: usize = 16;

/// What one check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The attribute's type code, or 0 where no attribute is meant.
    pub code: u8,
    /// What is wrong, in a person's words, with the RFC section: `ORIGIN is not 0, 1 or 2 (RFC 7606
    /// section 7.1)`.
    pub what: &'static str,
}

/// What is to be done with the UPDATE as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing to mend: pass the bytes as they came.
    Pass,
    /// Pass these bytes (an UPDATE's body) instead: attributes were discarded, Partial bits
    /// cleared, or announcements turned to withdrawals.
    Rewritten {
        /// The new body, without header, never longer than the old one, and itself a
        /// [`Verdict::Pass`]. May be empty of any routes, then there is nothing to send.
        body: Vec<u8>,
        /// Announcements became withdrawals (RFC 7606 "treat-as-withdraw").
        withdrawn: bool,
        /// Why.
        findings: Vec<Finding>,
    },
    /// Beyond repair: this NOTIFICATION, and the session ends.
    Reset {
        /// What to send.
        notification: Notification,
        /// Why.
        finding: Finding,
    },
}

/// Checks the body of an UPDATE (what follows the header) as it came from a neighbour.
/// Allocates nothing where the verdict is [`Verdict::Pass`].
pub fn check(body: &[u8], context: &UpdateContext) -> Verdict {
    match Survey::of(body, context) {
        Err(verdict) => *verdict,
        Ok(survey) if survey.findings.is_empty() => Verdict::Pass,
        Ok(survey) => survey.mended(),
    }
}

/// What one pass over an UPDATE has shown.
struct Survey<'a> {
    fields: Fields<'a>,
    mp_reach: Option<MpReach<'a>>,
    mp_unreach: Option<MpUnreach<'a>>,
    /// Codes that stood at least once.
    seen: AttributeSet,
    /// Codes whose first occurrence is to be left out; later occurrences always are.
    discard: AttributeSet,
    /// The first thing that asks for treat-as-withdraw, as the NOTIFICATION that RFC 4271 has for
    /// it.
    withdraw: Option<Notification>,
    findings: Vec<Finding>,
}

/// An early end of the survey; boxed to keep the good path's result small.
type Stop = Box<Verdict>;

fn reset(notification: Notification, code: u8, what: &'static str) -> Stop {
    Box::new(Verdict::Reset { notification, finding: Finding { code, what } })
}

impl<'a> Survey<'a> {
    fn of(body: &'a [u8], context: &UpdateContext) -> Result<Survey<'a>, Stop> {
        if body.len() > MAX_LEN_EXTENDED - HEADER_LEN {
            return Err(reset(
                Notification::new(1, 2),
                0,
                "the message is longer than 65535 octets (RFC 8654 section 4)",
            ));
        }
        let fields = update::fields(body)
            .map_err(|n| reset(n, 0, "the length fields do not fit the message (RFC 7606 section 3.b)"))?;
        let mut survey = Survey {
            fields,
            mp_reach: None,
            mp_unreach: None,
            seen: AttributeSet::default(),
            discard: AttributeSet::default(),
            withdraw: None,
            findings: Vec::new(),
        };
        let network = |what| reset(Notification::new(3, 10), 0, what);
        if Nlri::check(Family::IPV4_UNICAST, fields.withdrawn).is_none() {
            return Err(network("the withdrawn routes do not split into prefixes (RFC 7606 sections 3.i and 5.3)"));
        }
        if Nlri::check(Family::IPV4_UNICAST, fields.nlri).is_none() {
            return Err(network("the NLRI does not split into prefixes (RFC 7606 section 5.3)"));
        }
        survey.attributes(context)?;
        survey.unlocatable()?;
        Ok(survey)
    }

    /// The one pass over the attributes.
    fn attributes(&mut self, context: &UpdateContext) -> Result<(), Stop> {
        let classic = !self.fields.nlri.is_empty();
        for item in Attributes::new(self.fields.attributes) {
            let Ok(a) = item else {
                let what = "an attribute runs past the end of the attributes (RFC 7606 section 4)";
                self.note(0, &[], Problem::withdraw(1, what))?;
                // What may be missing now stood behind the break.
                return Ok(());
            };
            if self.seen.contains(a.code) {
                self.note(a.code, a.raw, values::repeated(a.code))?;
                continue;
            }
            self.seen.insert(a.code);
            if let Err(problem) = values::judge(&a, classic, context) {
                self.note(a.code, a.raw, problem)?;
            }
            self.keep_mp(&a);
        }
        self.mandatory()
    }

    fn keep_mp(&mut self, a: &Attribute<'a>) {
        match a.code {
            attr::MP_REACH_NLRI => self.mp_reach = update::mp_reach(a.value),
            attr::MP_UNREACH_NLRI => self.mp_unreach = update::mp_unreach(a.value),
            _ => {}
        }
    }

    /// Whether the UPDATE announces anything.
    fn announces(&self) -> bool {
        !self.fields.nlri.is_empty() || self.mp_reach.is_some_and(|mp| !mp.nlri.is_empty())
    }

    /// Well-known mandatory attributes (RFC 4271 section 5, RFC 4760 section 3), wherever something
    /// is announced.
    fn mandatory(&mut self) -> Result<(), Stop> {
        if !self.announces() {
            return Ok(());
        }
        let wanted = [
            (attr::ORIGIN, true, "ORIGIN is missing (RFC 7606 section 3.d)"),
            (attr::AS_PATH, true, "AS_PATH is missing (RFC 7606 section 3.d)"),
            (attr::NEXT_HOP, !self.fields.nlri.is_empty(), "NEXT_HOP is missing (RFC 7606 section 3.d)"),
        ];
        for (code, is_wanted, what) in wanted {
            if is_wanted && !self.seen.contains(code) {
                self.note(code, &[code], Problem::withdraw(3, what))?;
            }
        }
        Ok(())
    }

    /// RFC 7606 section 5.2: attributes without anything announced may mean that the announcement
    /// was lost to the fault itself, so there is nothing one could trust to withdraw.
    fn unlocatable(&mut self) -> Result<(), Stop> {
        if self.announces() {
            return Ok(());
        }
        match (self.withdraw.take(), self.findings.first()) {
            (Some(notification), Some(finding)) => Err(reset(notification, finding.code, finding.what)),
            _ => Ok(()),
        }
    }

    /// Records a problem of an attribute; `data` is what a NOTIFICATION about it would carry.
    fn note(&mut self, code: u8, data: &[u8], problem: Problem) -> Result<(), Stop> {
        let notification = || Notification::with_data(3, problem.subcode, data);
        match problem.action {
            Action::Reset => return Err(reset(notification(), code, problem.what)),
            Action::Withdraw => {
                // The finding that a reset would name stands first.
                if self.withdraw.is_none() {
                    self.withdraw = Some(notification());
                    self.findings.insert(0, Finding { code, what: problem.what });
                    self.findings.truncate(MAX_FINDINGS);
                    return Ok(());
                }
            }
            Action::Discard => self.discard.insert(code),
            Action::ClearPartial | Action::DiscardRepeated => {}
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { code, what: problem.what });
        }
        Ok(())
    }

    /// The UPDATE without what is wrong with it.
    fn mended(self) -> Verdict {
        if self.withdraw.is_none() {
            let body = rewrite::without(&self.fields, &self.discard);
            return Verdict::Rewritten { body, withdrawn: false, findings: self.findings };
        }
        match rewrite::withdrawal(&self.fields, self.mp_reach, self.mp_unreach) {
            Some(body) => Verdict::Rewritten { body, withdrawn: true, findings: self.findings },
            None => *reset(
                Notification::new(3, 9),
                attr::MP_REACH_NLRI,
                "what must be withdrawn is of two families that one UPDATE cannot withdraw together (RFC 7606 section 3.j)",
            ),
        }
    }
}

#[cfg(test)]
#[path = "hygiene_properties.rs"]
mod properties;
#[cfg(test)]
#[path = "hygiene_tests.rs"]
mod tests;
