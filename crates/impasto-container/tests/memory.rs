//! A hostile file takes little memory. The only test of its program, because it watches the allocator.

#[allow(dead_code)] // Others use the rest.
#[path = "it/common/mod.rs"]
mod common;
#[path = "../../impasto-core/tests/support/heap.rs"]
mod heap;

use common::raw::{asset, object, opaque, record, tensor, units, varints};
use common::{open, with_header};
use impasto_container::ContainerError;
use impasto_container::FormatError as F;

/// Returns the error of opening `bytes`, and the peak number of bytes allocated.
fn cost(bytes: &[u8]) -> (F, usize) {
    match heap::peak(|| open(bytes).map(|_| ())) {
        (Err(ContainerError::Format { rule, .. }), peak) => (rule, peak),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn memory_is_bounded() {
    let none = || record(0x82, &[0]);
    let file = |records: &[Vec<u8>]| {
        let manifest = records.concat();
        with_header(&manifest, 64 + manifest.len() as u64)
    };
    let huge = |fields: &[u64]| object(1, 0, b"a", &[&[4], &varints(fields)[..]].concat());

    let mut long = file(&[none()]);
    long[16..24].copy_from_slice(&(1u64 << 32).to_le_bytes());
    let small = [
        long,
        file(&[object(0, 0, b"a", &varints(&[1 << 48, 1 << 17])), none()]),
        file(&[huge(&[1, 1 << 48, 0, 1, 1 << 17, 0]), none()]),
        file(&[huge(&[1, 1 << 48, 0, 1, 1, 0]), none()]),
        file(&[huge(&[1 << 60]), none()]),
        file(&[opaque("a", b"F4", 1 << 48, &[0, 0, 1, 1 << 24, 0]), none()]),
        file(&[object(1, 0, b"a", &[vec![127], varints(&[1 << 40])].concat()), none()]),
        file(&[record(0x82, &varints(&[1 << 40]))]),
        file(&[record(0x81, &[vec![0], varints(&[0, 1 << 40])].concat()), none()]),
        file(&[[vec![0x01], varints(&[1 << 40])].concat(), none()]),
    ];
    for bytes in small {
        let (rule, peak) = cost(&bytes);
        assert!(peak < 10_000, "{peak} bytes for {rule}");
    }

    // Layers with high numbers, and 255 layers in few bytes.
    let above = |layer| units(&[(0, 0, 0, 0), (0, 0, 2, layer), (0, 0, 5, layer)]);
    for records in [vec![asset("a", 4, 4), above(255)], vec![record(0x01, &varints(&[255])), none()]] {
        let (rule, peak) = cost(&file(&records));
        assert!(peak < 10_000, "{peak} bytes for {rule}");
    }

    // Every unit in a layer of its own: the tables are no larger than the entries of the units.
    let mut objects = Vec::new();
    let mut layered = Vec::new();
    for object in 0..2000 {
        objects.push(tensor(&format!("{object:04}"), 3, &[0, 0, 1, 1, 0]));
        layered.extend([(object, 0, 2, 0), (object, 0, 4, 0)]);
        layered.extend((1..=100).flat_map(|layer| [(object, 0, 2, layer), (object, 0, 5, layer)]));
    }
    layered.push((0, 0, 5, 255));
    let described = layered.len() * 32;
    objects.push(units(&layered));
    let (rule, peak) = cost(&file(&objects));
    assert!(matches!(rule, F::MissingHeader { .. }), "{rule}");
    assert!(peak < 2 * described + 2000 * 600, "{peak} for {described}");

    // Names of 4096 bytes in records of 13 bytes: 100,000 of them would take 400 MB.
    let mut records = vec![object(2, 0, &[b' '; 4092], &[])];
    for n in 0..100_000 {
        records.push(object(2, 4089, format!("{n:07}").as_bytes(), &[]));
    }
    let (rule, peak) = cost(&file(&records));
    assert!(matches!(rule, F::OverLimit { what: "bytes of names", .. }), "{rule}");
    assert!(peak < 100 << 20, "{peak}");

    // Objects of 7 bytes each.
    let objects: Vec<Vec<u8>> = (0..1_100_000).map(|_| object(2, 0, b"a", &[])).collect();
    let (rule, peak) = cost(&file(&objects));
    assert!(matches!(rule, F::OverLimit { what: "objects", .. }), "{rule}");
    assert!(peak < 600 << 20, "{peak}");
}
