//! What a neighbour went through, out of hv-replay's own log.

use serde_json::Value;

/// A session that came up.
#[derive(Clone, Debug)]
pub struct Up {
    /// When, by the neighbour's clock: microseconds since 1970.
    pub at_us: u64,
    /// The router's AS number.
    pub asn: u64,
    /// The router's hold time.
    pub hold_time_s: u64,
}

/// An established session that ended.
#[derive(Clone, Debug)]
pub struct End {
    /// When, by the neighbour's clock: microseconds since 1970.
    pub at_us: u64,
    /// In hv-replay's words.
    pub why: String,
    /// The router's NOTIFICATION, code and subcode, if there was one.
    pub notification: Option<(u64, u64)>,
}

/// All sessions of one neighbour so far, in order.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Those that came up.
    pub ups: Vec<Up>,
    /// Those that ended.
    pub ends: Vec<End>,
}

impl Outside {
    /// Reads hv-replay's events.
    pub fn of(log: &[Value]) -> Outside {
        let mut seen = Outside::default();
        let mut said = None;
        for event in log {
            let at_us = event["ts_us"].as_u64().unwrap_or_default();
            match event["event"].as_str() {
                Some("session-up") => {
                    said = None;
                    let number = |key: &str| event["open"][key].as_u64().unwrap_or_default();
                    seen.ups.push(Up { at_us, asn: number("asn"), hold_time_s: number("hold_time_s") });
                }
                Some("notification-received") => {
                    said = event["code"].as_u64().zip(event["subcode"].as_u64());
                }
                Some("session-down") => {
                    let notification = said.take();
                    if event["established"] == true {
                        seen.ends.push(End { at_us, why: event["why"].to_string(), notification });
                    }
                }
                _ => {}
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_notification_belongs_to_the_session_that_it_ends() {
        let log = [
            json!({"ts_us": 1, "event": "session-up", "open": {"asn": 65000, "hold_time_s": 90}}),
            json!({"ts_us": 2, "event": "notification-received", "code": 6, "subcode": 1}),
            json!({"ts_us": 3, "event": "session-down", "why": "it said so", "established": true}),
            json!({"ts_us": 4, "event": "notification-received", "code": 2, "subcode": 2}),
            json!({"ts_us": 5, "event": "session-down", "why": "refused", "established": false}),
            json!({"ts_us": 6, "event": "session-up", "open": {"asn": 65010, "hold_time_s": 30}}),
            json!({"ts_us": 7, "event": "session-down", "why": "closed", "established": true}),
        ];
        let seen = Outside::of(&log);
        let ups: Vec<_> = seen.ups.iter().map(|up| (up.at_us, up.asn, up.hold_time_s)).collect();
        assert_eq!(ups, [(1, 65000, 90), (6, 65010, 30)]);
        let ends: Vec<_> = seen.ends.iter().map(|end| (end.at_us, end.notification)).collect();
        assert_eq!(ends, [(3, Some((6, 1))), (7, None)]);
    }
}
