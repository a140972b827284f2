//! Each target with a bounded number of inputs, the same ones each time.

use fuzz::{TARGETS, mutated, run};

/// Where the inputs begin; any number will do.
const FIRST: u64 = 1;

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let target = TARGETS.iter().find(|t| t.name == stringify!($name)).expect("a target of this name");
            match run(target, FIRST, target.bounded, None) {
                Ok(run) => println!("{}: {} inputs, {:.0} a second", target.name, run.inputs, run.rate()),
                Err(broken) => panic!("{broken}"),
            }
        })*

        #[test]
        fn every_target_is_tried_here() {
            let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
            assert_eq!([$(stringify!($name)),*].as_slice(), names);
        }
    };
}

targets! { stream open notification refresh update netlink vkernel shim mrt config request state script record journal core }

/// cargo-fuzz has a binary for each.
#[test]
fn every_target_has_its_binary() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    for target in TARGETS {
        let name = target.name;
        let source = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).expect(name);
        assert!(source.contains(&format!("fuzz::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    assert_eq!(std::fs::read_dir(folder.join("fuzz_targets")).expect("a folder").count(), TARGETS.len());
}

#[test]
fn an_input_is_known_by_its_seed_and_a_broken_law_is_told() {
    let seeds = vec![b"some words".to_vec(), vec![0xff; 30]];
    assert_eq!(mutated(7, &seeds), mutated(7, &seeds));
    let several: std::collections::BTreeSet<Vec<u8>> = (0..1000).map(|seed| mutated(seed, &seeds)).collect();
    assert!(several.len() > 500, "{} different inputs of 1000", several.len());
    fn seven(data: &[u8]) {
        assert_ne!(data.len(), 7);
    }
    let target = fuzz::Target { name: "seven", check: seven, seeds: || vec![vec![1; 9]], bounded: 0 };
    let broken = run(&target, FIRST, 10_000, None).expect_err("some input has seven octets");
    assert_eq!(broken.input, mutated(broken.seed.expect("the seed has nine"), &[vec![1; 9]]));
    assert!(broken.to_string().ends_with(&wire::bgp::hex(&broken.input)), "{broken}");
}
