//! Every saved fuzzer input is run through the code of its fuzz target.

use std::path::Path;

use crate::support::fuzz_bodies;

#[test]
fn regressions_stay_fixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions");
    for (target, body) in fuzz_bodies::TARGETS {
        let mut files: Vec<_> = std::fs::read_dir(folder.join(target))
            .unwrap_or_else(|error| panic!("{target}: {error}"))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "no files for {target}");
        for file in files {
            pass(&file, body);
        }
    }
}

/// The bodies hold for every file of the conformance set.
#[test]
fn the_conformance_set_is_input_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance");
    for part in ["files", "broken"] {
        for entry in std::fs::read_dir(folder.join(part)).expect("the conformance set") {
            let file = entry.expect("an entry").path();
            pass(&file, fuzz_bodies::container);
            pass(&file, fuzz_bodies::file);
        }
    }
}

fn pass(file: &Path, body: fuzz_bodies::Body) {
    let bytes = std::fs::read(file).expect("a file");
    let result = std::panic::catch_unwind(|| body(&bytes));
    assert!(result.is_ok(), "{} fails", file.display());
}
