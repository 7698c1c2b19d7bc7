//! Random files that the format allows.

use std::collections::BTreeMap;

use impasto_container::{LayerMark, Object, ObjectKind, Opaque, TensorMeta};
use impasto_core::{DType, Mode};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{Content, Unit};

/// Generates a tensor of any dtype: a block dtype with a last dim of whole blocks, or an opaque one of any length.
fn tensor() -> impl Strategy<Value = ObjectKind> {
    let dtypes = [&DType::PLAIN[..], &DType::BLOCKS, &[DType::Opaque; 8]].concat();
    let tile_cols = prop_oneof![(1u64..4).prop_map(|n| 32 * n), 200_000u64..u64::MAX];
    let opaque = ("F4|Q4_0|\\PC{1,16}", 0u64..2000);
    (select(dtypes), opaque, vec(0u64..50, 0..4), any::<Index>(), 1u64..40, tile_cols).prop_map(
        |(dtype, (name, bytes), mut dims, split, tile_rows, tile_cols)| {
            let blocks = dtype.weights() > 1;
            if blocks && dims.is_empty() {
                dims.push(3);
            }
            if let Some(last) = dims.last_mut() {
                *last *= dtype.weights() as u64;
            }
            let is_opaque = dtype == DType::Opaque;
            let splits = if is_opaque { 1 } else { dims.len() + usize::from(!blocks) };
            let opaque = is_opaque.then_some(Opaque { name, bytes });
            let split = split.index(splits);
            ObjectKind::Tensor(TensorMeta {
                dtype,
                opaque,
                dims,
                split,
                tile_rows,
                tile_cols,
                tied: None,
                reference: None,
                base: None,
            })
        },
    )
}

fn kind() -> impl Strategy<Value = ObjectKind> {
    prop_oneof![
        2 => (0u64..5000, 500u64..6000).prop_map(|(length, piece)| ObjectKind::Asset { length, piece, base: None }),
        6 => tensor(),
        1 => (2u8..).prop_map(ObjectKind::Unknown),
    ]
}

/// Generates sorted objects; some tensors are tied to an earlier one and have its shape.
fn objects() -> impl Strategy<Value = Vec<Object>> {
    let name = prop_oneof!["(model\\.layers\\.[0-9]{1,2}\\.)?[a-c]{1,3}", "\\PC{1,20}"];
    let tie = prop_oneof![2 => Just(None), 1 => any::<Index>().prop_map(Some)];
    btree_map(name, (kind(), tie), 0..12).prop_map(|named| {
        let mut sorted = BTreeMap::new();
        for (mut name, (kind, tie)) in named {
            if let ObjectKind::Asset { .. } = kind {
                name = name.replace(|c: char| !c.is_alphanumeric(), "_");
            }
            let object = Object { name, kind };
            sorted.insert((object.class(), object.name.clone()), (object, tie));
        }
        let mut objects: Vec<Object> = Vec::new();
        for (mut object, tie) in sorted.into_values() {
            let free: Vec<usize> =
                (0..objects.len()).filter(|&i| objects[i].tensor().is_some_and(|meta| meta.tied.is_none())).collect();
            if let (ObjectKind::Tensor(meta), Some(tie)) = (&mut object.kind, tie)
                && !free.is_empty()
            {
                let to = *tie.get(&free);
                *meta = objects[to].tensor().expect("a tensor").clone();
                meta.tied = Some(to as u32);
            }
            objects.push(object);
        }
        objects
    })
}

/// The largest number of layers above 0.
const LAYERS: u8 = 4;

/// Returns the modes of a tile, from layer 0 up. `code` determines the mode in layer 0 and the number of layers; all
/// tiles have the same mode in a layer. A tile that is not in mode lattice may have a tile in layer 1 that is to be
/// skipped.
fn modes_of_tile(code: u8, exact: Option<u8>) -> Vec<Mode> {
    let base = match code % 8 {
        0 => Mode::STORED,
        1 => Mode::ZSTD,
        2 => Mode::FLOAT,
        3 => Mode(code.max(8)),
        _ => Mode::LATTICE,
    };
    if base != Mode::LATTICE {
        return if code >= 128 { vec![base, Mode(code)] } else { vec![base] };
    }
    let most = exact.unwrap_or(LAYERS);
    let layer = |layer| if Some(layer) == exact { Mode::EXACT } else { Mode::REFINEMENT };
    [base].into_iter().chain((1..=(code / 8).min(most)).map(layer)).collect()
}

/// Generates a file with any objects. Tensor headers come first; the tiles of all layers, and units to be skipped,
/// follow in any order that has coarser tiles before finer ones.
pub fn content() -> impl Strategy<Value = Content> {
    let modes = vec(any::<u8>(), 1..20);
    let bytes = vec(vec(any::<u8>(), 0..70), 1..20);
    let exact = proptest::option::of(1..=LAYERS);
    let layers = vec((any::<Index>(), proptest::option::of(0f32..9.0)), 0..5);
    (objects(), modes, bytes, any::<u64>(), exact, layers).prop_map(|(objects, modes, bytes, order, exact, layers)| {
        let mut places = Vec::new();
        let mut headers = Vec::new();
        for (number, object) in objects.iter().enumerate() {
            let tiles = match object.matrix().expect("a good shape") {
                _ if object.tied().is_some() => 0,
                Some(matrix) => matrix.tile_count(),
                None => 3,
            };
            if tiles > 0 {
                headers.extend((0..=LAYERS).map(|layer| (number, 0, layer, Mode::TENSOR_HEADER)));
            }
            for tile in 0..tiles {
                let of_tile = modes_of_tile(modes[places.len() % modes.len()], exact);
                places.extend((0..).zip(of_tile).map(|(layer, mode)| (number, tile, layer, mode)));
            }
        }
        let chance =
            |number, tile, layer: u8| blake3::hash(format!("{order} {number} {tile} {layer}").as_bytes()).to_string();
        // Each tile follows those of its number in the layers below.
        places.sort_by_key(|&(number, tile, layer, _)| {
            ((0..=layer).map(|layer| chance(number, tile, layer)).max(), layer)
        });
        let unit = |(i, (number, tile, layer, mode)): (usize, (usize, u32, u8, Mode))| Unit {
            object: number as u32,
            tile,
            layer,
            mode,
            bytes: bytes[i % bytes.len()].clone(),
        };
        let units: Vec<Unit> = headers.into_iter().chain(places).enumerate().map(unit).collect();
        let mut marks: Vec<LayerMark> =
            layers.into_iter().map(|(at, kld)| LayerMark { units: at.index(units.len() + 1) as u32, kld }).collect();
        marks.sort_by_key(|mark| mark.units);
        Content { units, objects, layers: marks }
    })
}
