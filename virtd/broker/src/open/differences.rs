//! What one instance's OPEN has otherwise than the session, in words for the operator (event
//! `open-differs`).

use super::{Negotiated, Shared};
use wire::bgp::message::Open;

/// How one instance differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// It costs a vote, or may make routes differ; else virtd makes up for it.
    pub costs: bool,
    /// What, what follows and what to change; goes after the instance's name.
    pub text: String,
}

impl Negotiated {
    /// How the instance that sent `open` differs from what this session runs with; `None` where it
    /// does not.
    pub fn difference(&self, open: &Open) -> Option<Difference> {
        let offer = Shared::of(open);
        let (mut costly, mut mild) = (Vec::new(), Vec::new());
        for f in &self.shared.families {
            if !offer.families.contains(f) {
                costly.push(format!("lacks {f} and abstains on it here: enable {f} for this neighbour in it"));
            } else if !self.reaches(*f, &offer) {
                costly.push(format!(
                    "lacks extended next hops (RFC 8950) and abstains on {f} here: enable them for this neighbour in it"
                ));
            }
        }
        let ours = self.profile.shared.role;
        if offer.role != ours {
            let words = |r: Option<u8>| r.map_or("no role".to_owned(), |r| format!("role {r}"));
            costly.push(format!(
                "says {} (RFC 9234) where most say {}, and may treat routes otherwise: configure the same",
                words(offer.role),
                words(ours)
            ));
        }
        if self.shared.extended_message && !offer.extended_message {
            mild.push("lacks extended messages (RFC 8654): virtd packs into 4096 octets for it, and it abstains on a route that does not fit".to_owned());
        }
        if self.shared.as4 && !offer.as4 {
            mild.push("lacks 4-octet AS numbers (RFC 6793): virtd translates for it".to_owned());
        }
        if self.profile.hold_is_common && open.hold_time_s != self.profile.hold_time_s {
            mild.push(format!("proposes hold time {} s, most propose another", open.hold_time_s));
        }
        let costs = !costly.is_empty();
        costly.append(&mut mild);
        (!costly.is_empty()).then(|| Difference { costs, text: costly.join("; ") })
    }
}
