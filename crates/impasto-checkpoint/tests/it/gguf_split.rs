//! Split GGUF files, and folders with GGUF files.

use std::fs;
use std::path::Path;

use crate::common::gguf::{entry, file_of, pair, pair_u32, sample};
use crate::common::shard_of;
use impasto_checkpoint::Checkpoint;

const ONE: &str = "m-00001-of-00003.gguf";
const TWO: &str = "m-00002-of-00003.gguf";
const THREE: &str = "m-00003-of-00003.gguf";

/// Builds a part with index `no` (from 0) and a tensor of 4 bytes for each name.
fn part(no: u16, count: u16, names: &[&str]) -> Vec<u8> {
    let mut pairs = vec![pair("split.no", 2, &no.to_le_bytes()), pair("split.count", 2, &count.to_le_bytes())];
    if no == 0 {
        pairs.push(pair("split.tensors.count", 5, &3i32.to_le_bytes()));
        pairs.push(pair_u32("only.first", 7));
    }
    let entries: Vec<_> = names.iter().zip(0..).map(|(name, i)| entry(name, &[4], 24, 32 * i)).collect();
    let data: Vec<u8> = names.iter().flat_map(|name| name.bytes().cycle().take(4).chain([0; 28])).collect();
    file_of(&pairs, &entries, &data)
}

/// A split file whose first part has no tensors, as gguf-split can write it.
fn set() -> Vec<(&'static str, Vec<u8>)> {
    vec![(ONE, part(0, 3, &[])), (TWO, part(1, 3, &["c", "a"])), (THREE, part(2, 3, &["b"]))]
}

fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// Returns the error message for a file of a folder ("" for the folder itself), with the folder's path replaced by
/// "DIR".
fn refused(files: &[(&str, Vec<u8>)], name: &str) -> String {
    let dir = folder(files);
    let path = if name.is_empty() { dir.path().to_owned() } else { dir.path().join(name) };
    let message = Checkpoint::open(&path).expect_err("must be refused").to_string();
    assert_eq!(message.lines().count(), 1, "{message:?}");
    message.replace(&*dir.path().to_string_lossy(), "DIR").replace('\\', "/")
}

#[test]
fn any_part_opens_all_and_so_does_the_folder() {
    let dir = folder(&set());
    fs::write(dir.path().join("README.md"), "").unwrap();
    for name in [ONE, TWO, THREE, ""] {
        let checkpoint = Checkpoint::open(&dir.path().join(name)).unwrap();
        assert_eq!(checkpoint.shards().iter().map(|s| s.name()).collect::<Vec<_>>(), [ONE, TWO, THREE]);
        assert!(checkpoint.shards().iter().all(|s| s.is_canonical()));
        let metadata = checkpoint.metadata().unwrap();
        assert_eq!((metadata.u64("only.first"), metadata.u64("split.no")), (Some(7), Some(0)));
        let tensors: Vec<_> =
            checkpoint.tensors().iter().map(|t| (t.name.as_str(), t.shard, checkpoint.bytes(t))).collect();
        assert_eq!(tensors, [("a", 1, &b"aaaa"[..]), ("b", 2, b"bbbb"), ("c", 1, b"cccc")]);
    }
    // A part alone would be a model without most of its weights.
    let error = Checkpoint::open(Path::new(&folder(&set()[1..]).path().join(THREE))).unwrap_err().to_string();
    assert!(error.ends_with("it is one part of 3, and \"m-00001-of-00003.gguf\" is missing"), "{error}");
}

#[test]
fn sets_that_break_a_rule() {
    let with = |place: usize, name: &'static str, content: Vec<u8>| {
        let mut files = set();
        files[place] = (name, content);
        files
    };
    assert_eq!(refused(&set()[..2], ONE), format!("DIR/{ONE}: it is one part of 3, and \"{THREE}\" is missing"));
    assert_eq!(refused(&set()[..2], ""), format!("DIR/{ONE}: it is one part of 3, and \"{THREE}\" is missing"));
    let renamed = "it is part 2 of 3, so its name must end in \"-00002-of-00003.gguf\"";
    assert_eq!(refused(&with(1, "blob", part(1, 3, &["a"])), "blob"), format!("DIR/blob: {renamed}"));
    assert_eq!(refused(&with(2, THREE, part(1, 3, &["b"])), ONE), format!("DIR/{THREE}: {renamed}"));
    assert_eq!(
        refused(&with(2, THREE, part(2, 4, &["b"])), ONE),
        format!("DIR/{THREE}: it is part 3 of 4, so its name must end in \"-00003-of-00004.gguf\"")
    );
    assert_eq!(
        refused(&with(2, THREE, sample()), THREE),
        format!("DIR/{THREE}: its name is that of one of 3 parts, but its metadata are those of a whole file")
    );
    assert_eq!(
        refused(&with(2, THREE, sample()), ONE),
        format!("DIR/{THREE}: its name is that of one of 3 parts, but its metadata are those of a whole file")
    );
    assert_eq!(
        refused(&with(2, THREE, part(2, 3, &["c"])), TWO),
        format!("DIR/{TWO}: tensor \"c\": it is in two shards, \"{TWO}\" and \"{THREE}\"")
    );
    assert_eq!(
        refused(&with(2, THREE, part(2, 3, &["b", "d"])), TWO),
        format!("DIR/{TWO}: its 3 parts hold 4 tensors, split.tensors.count says 3")
    );
    assert_eq!(
        refused(&with(2, THREE, part(3, 3, &["b"])), THREE),
        format!("DIR/{THREE}: split.no 3 and split.count 3 are not a valid part")
    );
    let wrong_type = file_of(&[pair("split.count", 6, &2f32.to_le_bytes())], &[], &[]);
    assert_eq!(
        refused(&with(2, THREE, wrong_type), THREE),
        format!("DIR/{THREE}: split.no 0 and split.count 18446744073709551615 are not a valid part")
    );
    assert_eq!(
        refused(&with(2, THREE, shard_of(&[("b", b"1")])), ONE),
        format!("DIR/{THREE}: it is a safetensors file, not a GGUF file")
    );
}

#[test]
fn a_part_of_one_is_whole() {
    let dir = folder(&[("m-00001-of-00001.gguf", part(0, 1, &["a", "b", "c"]))]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 3);
}

#[test]
fn folders_choose_safetensors_first_and_one_gguf_else() {
    let gguf = folder(&[("model.Q4_0.gguf", sample()), ("config.json", b"not ours".to_vec())]);
    let checkpoint = Checkpoint::open(gguf.path()).unwrap();
    assert_eq!(checkpoint.shards()[0].name(), "model.Q4_0.gguf");
    assert!(checkpoint.assets().iter().all(|asset| asset.bytes != b"not ours"));

    let both = folder(&[("a.gguf", sample()), ("model.safetensors", shard_of(&[("w", b"1")]))]);
    assert_eq!(Checkpoint::open(both.path()).unwrap().tensors()[0].name, "w");

    let mut several = set();
    several.push(("z.gguf", sample()));
    let expected = "several GGUF files, such as \"m-00001-of-00003.gguf\" and \"z.gguf\": open one of them";
    assert_eq!(refused(&several, ""), format!("DIR: {expected}"));
    let two = [("a.gguf", sample()), ("b.gguf", sample())];
    assert_eq!(refused(&two, ""), "DIR: several GGUF files, such as \"a.gguf\" and \"b.gguf\": open one of them");
    let of_others = [(ONE, part(0, 3, &[])), ("m-00001-of-00002.gguf", part(0, 2, &[]))];
    assert!(refused(&of_others, "").contains("several GGUF files"));
    assert_eq!(
        refused(&[("x.gguf", b"GGUF".to_vec())], ""),
        "DIR/x.gguf: cut short: the version needs 4 bytes, 0 follow"
    );
}
