//! How often the core asks the allocator for memory for one candidate that changes nothing (the
//! target: not at all). All three instances repeat their tables; what remains is what a read costs,
//! once for some thousand candidates.
//!
//! Prints one JSON object and writes it to `target/criterion/allocations.json`, where hv-bench
//! looks for it.

mod bed;

use bed::{Bed, table};
use broker::io::Input;
use bytes::BytesMut;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

fn main() {
    let table = table(0);
    let mut bed = Bed::new();
    bed.all_say(&table.reads);
    bed.all_say(&table.reads);
    let _profiler = dhat::Profiler::builder().testing().build();
    let (mut blocks, mut candidates) = (0, 0);
    for leg in bed.legs.clone() {
        for read in &table.reads {
            let mut buf = BytesMut::from(&read[..]);
            let before = dhat::HeapStats::get().total_blocks;
            bed.handle(Input::LegBytes { leg, buf: &mut buf });
            blocks += dhat::HeapStats::get().total_blocks - before;
            bed.out.clear();
        }
        candidates += table.prefixes;
    }
    let result = json!({ "blocks": blocks, "candidates": candidates, "reads": 3 * table.reads.len() });
    println!("{result}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/criterion");
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("allocations.json"), result.to_string()));
    if let Err(e) = written {
        eprintln!("{}: {e}", folder.display());
        std::process::exit(1);
    }
}
