//! The kernel's rules as a table, and octets that are no messages.

use super::{received, sent, Answers};

const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWNEXTHOP: u16 = 104;

fn message(kind: u16, flags: i32, payload: &[u8]) -> Vec<u8> {
    let mut m = ((16 + payload.len()) as u32).to_ne_bytes().to_vec();
    m.extend_from_slice(&kind.to_ne_bytes());
    m.extend_from_slice(&(flags as u16).to_ne_bytes());
    m.extend_from_slice(&[0; 8]);
    m.extend_from_slice(payload);
    m.resize(m.len().next_multiple_of(4), 0);
    m
}

fn error(about: &[u8]) -> Vec<u8> {
    message(2, 0, &[&[0; 4], about.get(..16).unwrap_or(about)].concat())
}

fn read(bytes: &[u8]) -> impl Fn(usize, &mut [u8]) -> usize + '_ {
    |at, out| {
        let from = bytes.get(at..).unwrap_or_default();
        let n = from.len().min(out.len());
        out[..n].copy_from_slice(&from[..n]);
        n
    }
}

fn answers(acks: u32, dumps: u32, uncertain: bool) -> Answers {
    Answers { acks, dumps, uncertain }
}

#[test]
fn what_is_certain_to_be_answered() {
    use libc::{NLM_F_ACK as A, NLM_F_CREATE as C, NLM_F_DUMP as D, NLM_F_REPLACE as R, NLM_F_REQUEST as Q};
    let table: [(&str, Vec<Vec<u8>>, Answers); 9] = [
        ("a route with ACK", vec![message(NEWROUTE, Q | A, &[0; 12])], answers(1, 0, false)),
        ("one without", vec![message(NEWROUTE, Q | C, &[0; 12])], answers(0, 0, true)),
        ("a dump", vec![message(GETROUTE, Q | D, &[0; 12])], answers(0, 1, false)),
        ("a dump is not acknowledged", vec![message(GETROUTE, Q | D | A, &[0; 12])], answers(0, 1, false)),
        (
            "NLM_F_DUMP is REPLACE and EXCL on NEW",
            vec![message(NEWROUTE, Q | C | R | D, &[0; 12])],
            answers(0, 0, true),
        ),
        ("one GET is not counted", vec![message(GETROUTE, Q, &[0; 12])], answers(0, 0, true)),
        (
            "a batch, ACK on the last",
            vec![message(NEWNEXTHOP, Q | C, &[0; 5]), message(NEWROUTE, Q | C | A, &[0; 12])],
            answers(1, 0, true),
        ),
        ("not a request, but ACK", vec![message(NEWROUTE, A, &[])], answers(1, 0, false)),
        ("nothing", vec![], answers(0, 0, true)),
    ];
    for (what, messages, expected) in table {
        let bytes = messages.concat();
        assert_eq!(sent(bytes.len(), read(&bytes)), expected, "{what}");
    }
}

#[test]
fn what_an_answer_ends() {
    use libc::{NLM_F_ACK as A, NLM_F_DUMP as D, NLM_F_REQUEST as Q};
    let acked = message(NEWROUTE, Q | A, &[0; 12]);
    let plain = message(NEWROUTE, Q, &[0; 12]);
    let dump = message(GETROUTE, Q | D, &[0; 12]);
    let table = [
        ("an ack", error(&acked), answers(1, 0, false)),
        ("an error that was not asked for", error(&plain), answers(0, 0, false)),
        ("a refused dump", error(&dump), answers(0, 1, false)),
        ("a dump's end behind its last entry", [plain.clone(), message(3, 2, &[0; 4])].concat(), answers(0, 1, false)),
        ("two acks", [error(&acked), error(&acked)].concat(), answers(2, 0, false)),
        ("an error cut short", error(&acked)[..20].to_vec(), answers(1, 0, false)),
        ("a notification", plain, answers(0, 0, false)),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(received(bytes.len(), read(&bytes)), expected, "{what}");
    }
}

#[test]
fn octets_that_are_no_messages() {
    let mut good = message(NEWROUTE, libc::NLM_F_REQUEST | libc::NLM_F_ACK, &[0; 12]);
    good.extend_from_slice(&good.clone());
    for at in 0..good.len() {
        for value in [0, 1, 15, 16, 17, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            for cut in [bad.len(), at] {
                let bytes = &bad[..cut];
                let _ = (sent(bytes.len(), read(bytes)), received(bytes.len(), read(bytes)));
            }
        }
    }
    // A length beyond the datagram: the kernel answers nothing.
    good[28] = 0xff;
    assert_eq!(sent(good.len(), read(&good)), answers(1, 0, true));
    let zero = [0u8; 64];
    assert_eq!(sent(zero.len(), read(&zero)), answers(0, 0, true));
}
