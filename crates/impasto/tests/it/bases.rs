//! Finding the base of a delta (SPEC 21), with files of the conformance set.

use std::fs;
use std::path::{Path, PathBuf};

use impasto::Bases;

fn set(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../conformance/files/{name}.impasto"))
}

/// Copies a file of the set to a folder, where its base is not.
fn alone(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("{name}.impasto"));
    fs::copy(set(name), &path).expect("copy");
    path
}

/// Opens a delta and reads what of it needs the base.
fn read(bases: Vec<PathBuf>, path: &Path) -> Result<Vec<u8>, String> {
    let file = Bases::new(bases).open(path).map_err(|error| error.to_string())?;
    file.tensor("bf16").and_then(|tensor| tensor.bytes()).map_err(|error| error.to_string())
}

#[test]
fn a_base_is_found_by_its_root_in_files_and_folders() {
    let folder = tempfile::tempdir().expect("a folder");
    let delta = alone(folder.path(), "21.6-small-delta");
    let missing = read(vec![], &delta).expect_err("no base");
    assert!(missing.contains("(SPEC 21.1)") && missing.contains("\"small\""), "{missing}");

    let expected =
        impasto::File::open(&set("21-small-base")).and_then(|file| file.tensor("bf16")?.bytes()).expect("read");
    for bases in
        [vec![set("21-small-base")], vec![set("21-base"), set("21-small-base")], vec![set("").with_file_name("")]]
    {
        assert_eq!(read(bases, &delta).as_deref(), Ok(&expected[..]));
    }
    alone(folder.path(), "21-small-base");
    assert_eq!(read(vec![], &delta).as_deref(), Ok(&expected[..]));
}

#[test]
fn a_base_with_another_root_is_one_that_is_named_and_has_the_same_objects() {
    let folder = tempfile::tempdir().expect("a folder");
    let delta = alone(folder.path(), "21.2-another-root");
    // Next to the delta it is not looked at, since its root differs.
    alone(folder.path(), "21-small-base");
    let missing = read(vec![], &delta).expect_err("no base");
    assert!(missing.contains("(SPEC 21.1)"), "{missing}");
    let other = read(vec![set("21-base")], &delta).expect_err("another base");
    assert!(other.contains("(SPEC 21.2)"), "{other}");
    assert!(read(vec![set("21-base"), set("21-small-base")], &delta).is_ok());
}

#[test]
fn deltas_that_are_named_as_bases_of_each_other_come_to_an_end() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nothing has the root that they name, and they take nothing from it, so that any file would do.
    let copy = |n: u32| {
        let path = folder.path().join(format!("{n}.impasto"));
        fs::copy(set("21-nothing-of-the-base"), &path).expect("copy");
        path
    };
    let named: Vec<PathBuf> = (0..20).map(copy).collect();
    let error = Bases::new(named.clone()).open(&named[0]).err().expect("no base");
    assert!(error.to_string().contains("(SPEC 21.1)"), "{error}");
}
