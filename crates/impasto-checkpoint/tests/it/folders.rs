//! Folders: single and sharded weights, assets, and invalid folders.

use std::fs;
use std::path::Path;

use crate::common::{index_of, shard_of};
use impasto_checkpoint::{Checkpoint, MAX_ASSET_BYTES};

const INDEX: &str = "model.safetensors.index.json";

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Returns the error message for a folder with these files, with the folder's path replaced by "DIR".
fn refused(files: &[(&str, Vec<u8>)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        write(dir.path(), name, content);
    }
    let message = Checkpoint::open(dir.path()).expect_err("must be refused").to_string();
    assert_eq!(message.lines().count(), 1, "{message:?}");
    message.replace(&*dir.path().to_string_lossy(), "DIR").replace('\\', "/")
}

type Row<'a> = (&'a str, &'static str, &'a [u64], &'a [u8]);

fn rows(checkpoint: &Checkpoint) -> Vec<Row<'_>> {
    let row = |t| -> Row<'_> {
        let t: &impasto_checkpoint::TensorInfo = t;
        (&t.name, t.dtype.name(), &t.shape, checkpoint.bytes(t))
    };
    checkpoint.tensors().iter().map(row).collect()
}

#[test]
fn tensors_do_not_depend_on_sharding() {
    // Bytewise order of capitals, digits and "é" differs from that of any locale.
    let (a, b, c, d): (&[u8], &[u8], &[u8], &[u8]) = (b"first", b"second!", b"", b"4");
    let single = tempfile::tempdir().unwrap();
    write(single.path(), "model.safetensors", shard_of(&[("w.10", a), ("w.9", b), ("B", c), ("é", d)]));

    let sharded = tempfile::tempdir().unwrap();
    write(sharded.path(), "m-2.safetensors", shard_of(&[("é", d), ("w.10", a)]));
    write(sharded.path(), "sub/m-1.safetensors", shard_of(&[("w.9", b), ("B", c)]));
    let map = [("é", "m-2.safetensors"), ("w.10", "m-2.safetensors"), ("w.9", "sub/m-1.safetensors")];
    // "B" is in a shard but not in the index; it is still part of the checkpoint.
    write(sharded.path(), INDEX, index_of(&map));

    let (one, two) = (Checkpoint::open(single.path()).unwrap(), Checkpoint::open(sharded.path()).unwrap());
    let lone = Checkpoint::open(&single.path().join("model.safetensors")).unwrap();
    assert_eq!(rows(&one), rows(&two));
    assert_eq!(rows(&one), rows(&lone));
    assert_eq!(rows(&one).iter().map(|r| r.0).collect::<Vec<_>>(), ["B", "w.10", "w.9", "é"]);
    assert_eq!(two.shards().iter().map(|s| s.name()).collect::<Vec<_>>(), ["m-2.safetensors", "sub/m-1.safetensors"]);
    assert_eq!(two.assets()[0].name, INDEX);
    assert!(one.notes().is_empty() && two.notes().is_empty(), "{:?}", two.notes());
    for tensor in two.tensors() {
        assert_eq!(two.tensor(&tensor.name), Some(tensor));
        two.release(tensor);
    }
    assert_eq!(rows(&one), rows(&two), "released bytes are read again");
    assert_eq!(two.tensor("absent"), None);
}

#[test]
fn assets_ride_along() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "model.safetensors", shard_of(&[("w", b"1")]));
    let names = [
        "1_Pooling/config.json",
        "LICENSE",
        "README.md",
        "added_tokens.json",
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "config.json",
        "config_sentence_transformers.json",
        "generation_config.json",
        "merges.txt",
        "modeling_own.py",
        "modules.json",
        "params.json",
        "preprocessor_config.json",
        "quantize_config.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    ];
    for name in names.iter().rev() {
        write(dir.path(), name, format!("content of {name}"));
    }
    let left = ["2_Dense/model.safetensors", "README.txt", "a/b/c.json", "model-other.safetensors", INDEX];
    for name in left.iter().chain(&[".gitattributes", ".cache/x.json"]) {
        write(dir.path(), name, "stays");
    }
    let folder = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(folder.assets().iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), names);
    for asset in folder.assets() {
        assert_eq!(asset.bytes, format!("content of {}", asset.name).as_bytes());
    }
    let note = "files of the folder that are left out: 2_Dense/model.safetensors (5 bytes), README.txt (5 bytes), a/b/, \
        model-other.safetensors (5 bytes), model.safetensors.index.json (5 bytes)";
    assert_eq!(folder.notes(), [note]);
    for n in 0..20 {
        write(dir.path(), &format!("{n:02}.bin"), "");
    }
    let many = Checkpoint::open(dir.path()).unwrap();
    assert!(many.notes()[0].ends_with("15.bin (0 bytes), and 9 more"), "{:?}", many.notes());
    let lone = Checkpoint::open(&dir.path().join("model.safetensors")).unwrap();
    assert!(lone.assets().is_empty() && lone.notes().len() == 1, "{:?}", lone.notes());
    assert_eq!(lone.shards()[0].name(), "model.safetensors");
}

#[test]
fn an_asset_too_large_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "model.safetensors", shard_of(&[]));
    write(dir.path(), "tokenizer.json", "");
    let file = fs::File::options().write(true).open(dir.path().join("tokenizer.json")).unwrap();
    file.set_len(MAX_ASSET_BYTES + 1).unwrap();
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.ends_with("tokenizer.json: 268435457 bytes, more than the limit of 268435456 for an asset"));
}

#[test]
fn folders_that_break_a_rule() {
    let index = |map: &[(&str, &str)]| (INDEX, index_of(map).into_bytes());
    let no_weights = "DIR: no weights: looked for model.safetensors, model.safetensors.index.json, adapter_model.safetensors and a GGUF file";
    assert_eq!(refused(&[]), no_weights);
    assert_eq!(refused(&[("config.json", b"{}".to_vec()), ("pytorch_model.bin", vec![])]), no_weights);
    assert_eq!(refused(&[("model.safetensors", vec![])]), "DIR/model.safetensors: the file is empty");
    assert_eq!(refused(&[("model.safetensors/x", vec![])]), "DIR/model.safetensors: not a regular file");
    assert_eq!(
        refused(&[("model.safetensors", shard_of(&[])), ("config.json/x", vec![])]),
        "DIR/config.json: not a regular file"
    );

    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec();
    assert_eq!(
        refused(&[("model.safetensors", shard_of(&[])), ("tokenizer.json", pointer)]),
        "DIR/tokenizer.json: it is a Git LFS pointer, not the file: `git lfs pull` fetches the file"
    );

    for (json, expected) in [
        ("", "not a shard index: it does not begin with '{'"),
        ("[{}]", "not a shard index: it does not begin with '{'"),
        ("{", "not a shard index: EOF while parsing an object at line 1 column 1"),
        ("{}", "not a shard index: missing field `weight_map` at line 1 column 2"),
        (
            r#"{"weight_map":["a"]}"#,
            "not a shard index: invalid type: sequence, expected an object at line 1 column 14",
        ),
        (
            r#"{"weight_map":{"a":1}}"#,
            "not a shard index: invalid type: integer `1`, expected a string at line 1 column 20",
        ),
        (r#"{"weight_map":{}}"#, "the index has no shards"),
        (r#"{"weight_map":{"a":"s","b":"s","a":"t"}}"#, "tensor \"a\": named twice"),
    ] {
        assert_eq!(refused(&[(INDEX, json.into())]), format!("DIR/{INDEX}: {expected}"));
    }

    assert_eq!(
        refused(&[index(&[("a", "gone.safetensors")])]),
        format!("DIR/{INDEX}: shard \"gone.safetensors\" is missing")
    );
    for name in ["../x.safetensors", "/x.safetensors", "a/../../x", "C:x", "", "a//b", "./a"] {
        let expected = format!("DIR/{INDEX}: shard \"{name}\": not a plain relative path inside the folder");
        assert_eq!(refused(&[index(&[("a", name)])]), expected);
    }
    assert_eq!(
        refused(&[index(&[("a", "s")]), ("s", shard_of(&[("b", b"1")]))]),
        format!("DIR/{INDEX}: tensor \"a\": the index places it in \"s\", which does not contain it")
    );
    assert_eq!(
        refused(&[
            index(&[("a", "s"), ("b", "t")]),
            ("s", shard_of(&[("b", b"1"), ("a", b"1")])),
            ("t", shard_of(&[]))
        ]),
        format!("DIR/{INDEX}: tensor \"b\": the index places it in \"t\", which does not contain it")
    );
    assert_eq!(
        refused(&[
            index(&[("a", "s"), ("b", "t")]),
            ("s", shard_of(&[("a", b"1")])),
            ("t", shard_of(&[("b", b"1"), ("a", b"1")]))
        ]),
        format!("DIR/{INDEX}: tensor \"a\": it is in two shards, \"s\" and \"t\"")
    );
    assert_eq!(
        refused(&[index(&[("a", "s")]), ("s", b"1234".to_vec())]),
        "DIR/s: 4 bytes; a safetensors file begins with 8 bytes that hold the length of its header"
    );
}

#[test]
fn paths_that_are_not_there_or_not_files() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    assert!(message(&dir.path().join("absent")).contains("absent: "));
    fs::create_dir(dir.path().join("x.safetensors")).unwrap();
    assert!(message(&dir.path().join("x.safetensors")).contains("x.safetensors: no weights: looked for"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_end() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    symlink("loop", dir.path().join("loop")).unwrap();
    assert!(message(&dir.path().join("loop")).contains("loop: "), "the system's own message");

    // Caches of the Hub link each file of a folder to a blob elsewhere.
    write(dir.path(), "blobs/1", shard_of(&[("w", b"x")]));
    let folder = dir.path().join("snapshot");
    fs::create_dir(&folder).unwrap();
    symlink("../blobs/1", folder.join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(&folder).unwrap().tensors().len(), 1);
    // A dangling link is an error, and does not count as missing weights.
    fs::remove_file(dir.path().join("blobs/1")).unwrap();
    assert!(message(&folder).contains("model.safetensors: No such file"));

    assert_eq!(message(Path::new("/dev/null")), "/dev/null: not a regular file");
}
