//! The files that the writer leaves behind, and the input that it refuses.

use std::fs;
use std::path::Path;

use crate::common::{open, small};
use impasto_container::{ContainerError, FormatError, LayerMark, ObjectKind, Opaque, Writer, measure};
use impasto_core::{DType, Mode};

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_replaces_the_old_one_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.impasto");
    fs::write(&path, b"old").unwrap();
    let content = small();
    let mut writer = Writer::create(&path, content.objects.clone(), content.slots(), vec![]).unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    for (i, unit) in content.units.iter().enumerate() {
        assert_eq!(writer.pushed(), i);
        writer.push(unit.mode, &unit.bytes).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
    writer.finish().unwrap();
    assert_eq!(files(dir.path()), ["a.impasto"]);
    assert_eq!(fs::read(&path).unwrap(), content.to_file());
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let roots = ["a", "b"].map(|name| small().write(&dir.path().join(name)).root);
    assert_eq!(roots[0], roots[1]);
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), fs::read(dir.path().join("b")).unwrap());
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let content = small();
    let mut writer = Writer::create(&dir.path().join("a"), content.objects.clone(), content.slots(), vec![]).unwrap();
    writer.push(content.units[0].mode, &content.units[0].bytes).unwrap();
    drop(writer);
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn units_that_do_not_fit_their_slots_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let content = small();
    let create = || Writer::create(&path, content.objects.clone(), content.slots(), vec![]).unwrap();

    let mut writer = create();
    let error = writer.push(Mode::TENSOR_HEADER, b"").unwrap_err();
    assert!(matches!(error, ContainerError::WrongMode { mode: Mode::TENSOR_HEADER, .. }));
    assert!(
        error.to_string().ends_with("mode 2 does not fit unit 0 (tile 0 of \"config.json\") (SPEC 3.6)"),
        "{error}"
    );
    // A refused unit has no effect.
    writer.push(Mode::STORED, b"{\"a\"").unwrap();
    writer.push(Mode::STORED, b":1}").unwrap();
    let error = writer.push(Mode::FLOAT, b"").unwrap_err();
    assert!(matches!(error, ContainerError::WrongMode { mode: Mode::FLOAT, .. }));
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, ContainerError::UnitCount { slots: 12, pushed: 2, .. }), "{error}");

    let mut writer = create();
    let long = vec![0; (1 << 28) + 1];
    let error = writer.push(Mode::STORED, &long).unwrap_err();
    assert!(matches!(error, ContainerError::LongUnit { unit: 0, length: 0x1000_0001, .. }), "{error}");
    content.units.iter().for_each(|unit| writer.push(unit.mode, &unit.bytes).unwrap());
    let error = writer.push(Mode::STORED, b"").unwrap_err();
    assert!(matches!(error, ContainerError::UnitCount { slots: 12, pushed: 13, .. }), "{error}");
    writer.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), content.to_file());
}

#[test]
fn content_that_a_reader_would_refuse_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let rule = |result: Result<Writer, ContainerError>| match result {
        Err(ContainerError::Format { rule, .. }) => rule,
        other => panic!("{other:?}"),
    };
    let content = small();
    let (objects, slots) = (content.objects.clone(), content.slots());

    let mut swapped = objects.clone();
    swapped.swap(3, 4);
    let error = rule(Writer::create(&path, swapped, slots.clone(), vec![]));
    assert_eq!(error, FormatError::Order { name: "\"norm\"".into() });
    let error = rule(Writer::create(&path, objects.clone(), slots[1..].to_vec(), vec![]));
    assert_eq!(error, FormatError::MissingTiles { name: "\"config.json\"".into(), have: 1, tiles: 2 });
    let twice = [&slots[..], &slots[..1]].concat();
    let error = rule(Writer::create(&path, objects.clone(), twice, vec![]));
    assert_eq!(error, FormatError::DuplicateUnit { first: 0, second: 12, name: "\"config.json\"".into() });
    let mut nameless = objects.clone();
    nameless[0].name.clear();
    let error = rule(Writer::create(&path, nameless, slots.clone(), vec![]));
    assert_eq!(error, FormatError::NameLength { object: 0, length: 0 });

    let marks = |units: &[u32]| units.iter().map(|&units| LayerMark { units, kld: None }).collect::<Vec<_>>();
    let create = |layers| rule(Writer::create(&path, objects.clone(), slots.clone(), layers));
    assert_eq!(create(marks(&[3, 2])), FormatError::LayerUnits { layer: 2, units: 2 });
    assert_eq!(create(marks(&[13])), FormatError::LayerUnits { layer: 1, units: 13 });
    assert_eq!(create(marks(&[12; 256])), FormatError::LayerCount { count: 256 });

    // `opaque` must be present if and only if the dtype is opaque.
    let opaque = |name: &str| Some(Opaque { name: name.into(), bytes: 20 });
    for (dtype, opaque, error) in [
        (DType::Opaque, None, FormatError::OpaqueMeta { name: "\"norm\"".into() }),
        (DType::F32, opaque("F4"), FormatError::OpaqueMeta { name: "\"norm\"".into() }),
        (DType::Opaque, opaque(""), FormatError::TypeNameLength { name: "\"norm\"".into(), length: 0 }),
        (DType::Opaque, opaque(&"F".repeat(65)), FormatError::TypeNameLength { name: "\"norm\"".into(), length: 65 }),
        (DType::Opaque, opaque("I8"), FormatError::TypeNamePlain { name: "\"norm\"".into(), dtype: "\"I8\"".into() }),
    ] {
        let mut odd = objects.clone();
        let ObjectKind::Tensor(meta) = &mut odd[3].kind else { panic!("norm is a tensor") };
        (meta.dtype, meta.opaque) = (dtype, opaque);
        assert_eq!(rule(Writer::create(&path, odd, slots.clone(), vec![])), error);
    }

    // Whether a tile needs a tensor header is only known when it is written.
    let mut writer = Writer::create(&path, objects, slots, vec![]).unwrap();
    for unit in &content.units {
        let mode = if unit.object == 3 { Mode::LATTICE } else { unit.mode };
        writer.push(mode, &unit.bytes).unwrap();
    }
    let error = writer.finish().unwrap_err();
    let expected = FormatError::MissingHeader { name: "\"norm\"".into(), unit: 8 };
    assert!(matches!(&error, ContainerError::Format { rule, .. } if *rule == expected), "{error}");
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn a_destination_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let content = small();
    let create = |path: &Path| Writer::create(path, content.objects.clone(), content.slots(), vec![]);
    fs::write(dir.path().join("file"), "").unwrap();
    let error = create(&dir.path().join("file/a")).unwrap_err();
    assert!(matches!(error, ContainerError::Io { .. }), "{error}");
    fs::remove_file(dir.path().join("file")).unwrap();

    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let error = create(&taken).unwrap_err().to_string();
    assert!(error.contains("taken: it is a folder; give the path of a file"), "{error}");
    // The same if the folder is created after the writer.
    let mut writer = create(&dir.path().join("late")).unwrap();
    content.units.iter().for_each(|unit| writer.push(unit.mode, &unit.bytes).unwrap());
    fs::create_dir(dir.path().join("late")).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("late: "));
    assert_eq!(files(dir.path()), ["late", "taken"]);
    // A rename would replace the device.
    #[cfg(unix)]
    assert!(create(Path::new("/dev/null")).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn an_empty_file_is_a_header_and_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let summary = Writer::create(&path, vec![], vec![], vec![]).unwrap().finish().unwrap();
    assert_eq!((summary.file_length, summary.manifest_length, summary.units), (67, 3, 0));
    let file = fs::read(&path).unwrap();
    assert_eq!((file.len(), &file[64..]), (67, &[0x82, 1, 0][..]));
    assert!(open(&file).unwrap().objects().is_empty());
    assert_eq!(measure(&[], &[], &[], None), Ok(67));
}

#[test]
fn measuring_long_units_takes_no_memory_for_them() {
    let most = 1 << 28;
    let length = measure(&[], &[most; 1000], &[], None).unwrap();
    let manifest = 1 + 3 + 2 + 32 * 1000;
    assert_eq!(length, (64u64 + manifest).next_multiple_of(16) + 1000 * u64::from(most));
    assert_eq!(measure(&[], &[1, most + 1], &[], None), Err(FormatError::UnitLength { unit: 1, length: most + 1 }));
}

#[cfg(unix)]
#[test]
fn the_file_has_ordinary_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("plain"), b"").unwrap();
    small().write(&dir.path().join("ours"));
    let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("ours"), mode("plain"));
}
