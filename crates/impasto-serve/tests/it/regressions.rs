//! Every saved input of the fuzz target `request` is run through its code.

use std::path::Path;

#[test]
fn requests_stay_fixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions/request");
    let files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert!(files.len() >= 5);
    for file in files {
        let bytes = std::fs::read(&file).expect("a file");
        let result = std::panic::catch_unwind(|| impasto_serve::api::fuzz_request(&bytes));
        assert!(result.is_ok(), "{} fails", file.display());
    }
}
