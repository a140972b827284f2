//! Answers and events as they were written down: what programs read must not change its form
//! unnoticed.

use serde_json::Value;
use std::path::Path;

/// Where the samples are. The types that virtctl reads are held against the same files
/// (`virtd/api/tests/form.rs`).
const SAMPLES: &str = "api/tests/form";

/// Whether an answer is what its sample says. With HV_FORM=write the sample is written instead.
pub fn assert_form(name: &str, answer: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(SAMPLES).join(name).with_extension("json");
    let answer = steady(answer.clone());
    if std::env::var("HV_FORM").is_ok_and(|word| word == "write") {
        let text = serde_json::to_string_pretty(&answer).expect("JSON");
        std::fs::write(&path, text + "\n").expect("a sample is written");
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let sample: Value = serde_json::from_str(&text).expect("a sample");
    assert_eq!(answer, sample, "{name} has another form than {}", path.display());
}

/// Without what depends on the machine and the day: octets of memory and the time.
fn steady(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                *field = match name.as_str() {
                    "memory_bytes" | "memory" if field.is_number() => Value::from(0),
                    "memory" => zeroes(field.take()),
                    "time" => Value::from("2026-01-01T00:00:00.000Z"),
                    _ => steady(field.take()),
                };
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| *item = steady(item.take())),
        _ => {}
    }
    value
}

/// The same fields, each number 0.
pub fn zeroes(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => fields.values_mut().for_each(|field| *field = zeroes(field.take())),
        Value::Array(list) => list.iter_mut().for_each(|item| *item = zeroes(item.take())),
        Value::Number(_) => return Value::from(0),
        _ => {}
    }
    value
}
