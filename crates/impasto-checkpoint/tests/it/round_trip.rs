//! Written files are read back, by this crate and by the reference implementation.

use crate::common::{entries, file_of};
use impasto_checkpoint::{Checkpoint, Opaque, TensorSpec, TensorWriter, parse_header, write_safetensors};
use impasto_core::DType;
use proptest::prelude::*;

fn spec(name: &str, dtype: DType, shape: &[u64]) -> TensorSpec {
    TensorSpec::new(name, dtype, shape)
}

/// Tensors of any plain dtype with 0 to 3 dimensions (some of them 0) and unique names with any characters.
fn any_tensors() -> impl Strategy<Value = Vec<(TensorSpec, Vec<u8>)>> {
    let tensor = (prop::sample::select(&DType::PLAIN[..]), prop::collection::vec(0u64..5, 0..4));
    let named = prop::collection::btree_map("\\PC{0,8}|[a-z\"\\\\\n]{1,4}", tensor, 0..8);
    (named, any::<u64>()).prop_map(|(named, seed)| {
        let mut state = seed;
        let mut byte = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        let fill = |(name, (dtype, shape)): (String, (DType, Vec<u64>))| {
            let len = shape.iter().product::<u64>() as usize * dtype.size();
            (TensorSpec::new(name, dtype, shape), (0..len).map(|_| byte()).collect())
        };
        named.into_iter().map(fill).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read(
        tensors in any_tensors().prop_shuffle(),
        metadata in prop::option::of(prop::collection::btree_map("\\PC{0,6}", "\\PC{0,6}", 0..3)),
        chunk in 1usize..40,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let metadata: Option<Vec<(String, String)>> = metadata.map(|m| m.into_iter().collect());
        let slices: Vec<_> = tensors.iter().map(|(s, b)| (s.clone(), b.as_slice())).collect();
        write_safetensors(&path, metadata.as_deref(), &slices).unwrap();

        let checkpoint = Checkpoint::open(&path).unwrap();
        prop_assert_eq!(checkpoint.tensors().len(), tensors.len());
        prop_assert!(checkpoint.tensors().is_sorted_by(|a, b| a.name.as_bytes() < b.name.as_bytes()));
        for (spec, bytes) in &tensors {
            let info = checkpoint.tensor(&spec.name).unwrap();
            prop_assert_eq!(&TensorSpec::from(info), spec);
            prop_assert_eq!(checkpoint.bytes(info), bytes.as_slice());
            prop_assert_eq!(info.byte_len(), bytes.len() as u64);
            prop_assert_eq!(info.elements(), spec.shape.iter().product::<u64>());
        }

        let file = std::fs::read(&path).unwrap();
        let header = parse_header(&file, file.len() as u64, "f").unwrap();
        prop_assert_eq!(header.data_start % 8, 0);
        prop_assert_eq!(&header.metadata, &metadata);
        let reference = safetensors::SafeTensors::deserialize(&file).unwrap();
        prop_assert_eq!(reference.len(), tensors.len());
        for (spec, bytes) in &tensors {
            prop_assert_eq!(reference.tensor(&spec.name).unwrap().data(), bytes.as_slice());
        }

        // Restores the file from its raw header, in chunks that ignore tensor boundaries.
        let copy = dir.path().join("copy.safetensors");
        let specs: Vec<_> = checkpoint.tensors().iter().map(TensorSpec::from).collect();
        let mut writer = TensorWriter::with_header(&copy, checkpoint.shards()[0].header(), &specs).unwrap();
        let order: Vec<_> = writer.tensors().to_vec();
        let data: Vec<u8> = order.iter().flat_map(|t| checkpoint.bytes(checkpoint.tensor(&t.name).unwrap()).to_vec()).collect();
        for piece in data.chunks(chunk) {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap();
        prop_assert_eq!(std::fs::read(&copy).unwrap(), file);
        prop_assert_eq!(entries(dir.path()), 2);
    }
}

/// A header that our writer would not produce: other order of fields, spaces, padding, data not in the order of names
/// or of entries, an unknown field.
#[test]
fn a_foreign_header_is_rebuilt_byte_for_byte() {
    let json = concat!(
        r#"{ "b" : {"shape":[2 ],"dtype":"F16","data_offsets":[3,7],"note":[{}]},"#,
        r#""a":{"data_offsets":[0,3],"dtype":"U8","shape":[3,1]}, "__metadata__":null}   "#
    );
    let file = file_of(json, b"aaabbbb");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/folder/model.safetensors");
    let header = &file[..file.len() - 7];
    let specs = [spec("b", DType::F16, &[2]), spec("a", DType::U8, &[3, 1])];
    let mut writer = TensorWriter::with_header(&path, header, &specs).unwrap();
    assert_eq!(writer.tensors().iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    writer.write(b"aaab").unwrap();
    writer.write(b"bbb").unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), file);
}

/// Elements of 4 and 6 bits, and an unknown dtype: the reference reads back those that it knows.
#[test]
fn dtypes_of_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let opaque = |name: &str, shape: &[u64], kind: &str, bytes: u64| {
        TensorSpec::opaque(name, shape, Opaque { name: kind.into(), bytes })
    };
    let tensors: [(TensorSpec, &[u8]); 4] = [
        (opaque("four", &[2, 8], "F4", 8), b"12345678"),
        (opaque("six", &[4, 2], "F6_E2M3", 6), b"abcdef"),
        (spec("plain", DType::U8, &[1]), b"x"),
        (opaque("new", &[3], "Q\"1", 5), b"?!?!?"),
    ];
    write_safetensors(&path, None, &tensors).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    for (spec, bytes) in &tensors {
        let info = checkpoint.tensor(&spec.name).unwrap();
        assert_eq!((&TensorSpec::from(info), checkpoint.bytes(info)), (spec, *bytes));
        assert_eq!(info.elements(), bytes.len() as u64);
        assert_eq!(info.weights(), spec.shape.iter().product::<u64>());
    }
    write_safetensors(&path, None, &tensors[..3]).unwrap();
    let file = std::fs::read(&path).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&file).unwrap();
    for (spec, bytes) in &tensors[..3] {
        assert_eq!(reference.tensor(&spec.name).unwrap().data(), *bytes);
    }
}

#[test]
fn a_raw_header_must_fit_the_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let json =
        r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[],"data_offsets":[4,5]}}"#;
    let raw = file_of(json, &[]);
    let (a, b) = (spec("a", DType::F16, &[2]), spec("b", DType::U8, &[]));
    let refused = |raw: &[u8], specs: &[TensorSpec]| {
        let error = TensorWriter::with_header(&path, raw, specs).unwrap_err().to_string();
        assert_eq!(entries(dir.path()), 0);
        error.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&error).to_owned()
    };
    assert_eq!(refused(&raw, std::slice::from_ref(&a)), "tensor \"b\": ends at 5, past the end of the data at 4");
    assert_eq!(
        refused(&raw, &[a.clone(), spec("c", DType::U8, &[])]),
        "tensor \"c\": the raw header does not contain it"
    );
    assert_eq!(refused(&raw, &[a.clone(), a.clone()]), "the tensors cover 5 bytes of data, the file holds 8");
    assert_eq!(
        refused(&raw, &[spec("a", DType::Bf16, &[2]), b.clone()]),
        "tensor \"a\": the raw header has F16 [2], the tensor to write is BF16 [2]"
    );
    assert_eq!(
        refused(&raw, &[spec("a", DType::F16, &[2, 1]), b.clone()]),
        "tensor \"a\": the raw header has F16 [2], the tensor to write is F16 [2, 1]"
    );
    let empty = file_of(r#"{"z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, &[]);
    assert_eq!(
        refused(&empty, &[]),
        "tensor \"z\": the raw header contains it, but it is not among the tensors to write"
    );
    let trailing = [raw.clone(), vec![b' '; 2]].concat();
    assert_eq!(refused(&trailing, &[a.clone(), b.clone()]), "the tensors cover 5 bytes of data, the file holds 7");
    // Trailing bytes as long as a missing tensor: the lengths agree, but the tensors do not.
    let trailing = [raw.clone(), vec![b' ']].concat();
    assert_eq!(
        refused(&trailing, std::slice::from_ref(&a)),
        "tensor \"b\": the raw header contains it, but it is not among the tensors to write"
    );
    let cut = format!("header of {} bytes declared, 32 bytes follow", raw.len() - 8);
    assert_eq!(refused(&raw[..40], &[a.clone(), b.clone()]), cut);
    assert_eq!(refused(b"", &[a, b]), "the file is empty");
    let huge = spec("a", DType::F32, &[u64::MAX]);
    assert_eq!(refused(&raw, &[huge]), "tensor \"a\": the byte count of its shape overflows 64 bits");
}

#[test]
fn a_file_that_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, b"old").unwrap();
    let specs = [spec("a", DType::U8, &[4]), spec("b", DType::U8, &[4])];

    let mut writer = TensorWriter::safetensors(&path, None, &specs).unwrap();
    writer.write(b"12345").unwrap();
    drop(writer);
    assert_eq!(entries(dir.path()), 1);

    let mut writer = TensorWriter::safetensors(&path, None, &specs).unwrap();
    writer.write(b"1234").unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.ends_with("tensor \"b\": the data stops after 4 of 8 bytes of the file"), "{error}");

    let mut writer = TensorWriter::safetensors(&path, None, &specs).unwrap();
    let error = writer.write(b"123456789").unwrap_err().to_string();
    assert!(error.ends_with("more than the 8 bytes of data that the header declares were written"), "{error}");
    drop(writer);

    assert_eq!(entries(dir.path()), 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn tensors_that_make_no_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let refused = |specs: &[TensorSpec]| {
        let error = TensorWriter::safetensors(&path, None, specs).unwrap_err().to_string();
        assert_eq!(entries(dir.path()), 0);
        error
    };
    let twice = [spec("a", DType::U8, &[4]), spec("a", DType::U8, &[4])];
    assert!(refused(&twice).ends_with("tensor \"a\": named twice"));
    let overflow = "tensor \"b\": the byte count of its shape overflows 64 bits";
    assert!(refused(&[spec("b", DType::U8, &[1 << 33, 1 << 33])]).ends_with(overflow));
    let half = |name| spec(name, DType::U8, &[1 << 63]);
    assert!(refused(&[half("a"), half("b")]).ends_with(overflow));
    assert!(refused(&[spec("__metadata__", DType::U8, &[])]).contains("__metadata__ is not a map"));
    assert!(refused(&[spec("b", DType::Q4_0, &[32])]).ends_with("tensor \"b\": safetensors has no type Q4_0"));
    let half = TensorSpec { opaque: None, ..TensorSpec::opaque("b", [1], Opaque { name: "F4".into(), bytes: 1 }) };
    assert!(refused(&[half]).ends_with("tensor \"b\": safetensors has no type opaque"));
    let both = TensorSpec { dtype: DType::U8, ..TensorSpec::opaque("b", [1], Opaque { name: "F4".into(), bytes: 1 }) };
    assert!(refused(&[both]).ends_with("tensor \"b\": its dtype and the name of its type contradict each other"));
    let taken = TensorSpec::opaque("b", [3], Opaque { name: "F16".into(), bytes: 6 });
    assert!(refused(&[taken]).ends_with("the raw header has F16 [3], the tensor to write is F16 [3] of 6 bytes"));
    let error = write_safetensors(&path, None, &[(spec("a", DType::F32, &[2]), b"1234")]).unwrap_err().to_string();
    assert!(error.ends_with("tensor \"a\": shape and dtype need 8 bytes, data_offsets hold 4"), "{error}");
}
