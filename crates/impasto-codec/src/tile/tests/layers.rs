//! Tiles with several layers.

use impasto_core::{
    Place,
    lattice::{reconstruct_row, row_scale, scale},
};

use super::*;
use crate::class::Kind;
use crate::header::Refinement;
use crate::tables::{Frequencies, parametric};
use crate::trellis::Trellis;

/// A tensor with layers: the tensor headers from layer 0 up, the units of one tile, and the expected output of each
/// layer.
struct Layered {
    dtype: DType,
    place: Place,
    headers: Vec<TensorHeader>,
    units: Vec<(Mode, Vec<u8>)>,
    /// Integers of each layer below the exact one.
    integers: Vec<Vec<i32>>,
    /// Bytes of the tile in each layer.
    elements: Vec<Vec<u8>>,
}

/// Returns tables with an escape: those of a lattice shape in reverse order, repeated as needed.
fn tables(kind: Kind) -> Shape {
    let tables = parametric(Kind::Lattice, 4).expect("shape");
    let tables: Vec<Frequencies> = tables.into_iter().rev().cycle().take(kind.tables()).collect();
    Shape::Explicit(tables)
}

/// Parameters of a random tensor.
#[derive(Clone, Debug)]
struct Recipe {
    dtype: DType,
    /// Plane of layer 0 and of the exact layer.
    planes: (u8, u8),
    step: f32,
    row_steps: bool,
    /// Whether each layer has multipliers of its own.
    multipliers: bool,
    /// Factor and offset of each refinement, and the logarithm of the states of its trellis; there is none if this is below 2.
    refinements: Vec<(u8, u8, u8)>,
    segments: (usize, usize),
    /// Integers, residuals and differences from the weights, repeated as needed.
    noise: Vec<i32>,
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let dtype = prop::sample::select(FLOATS[..3].to_vec());
    let step = prop::sample::select(vec![0.004, 1e-7, 1e30, 1e-44]);
    let refinements = prop::collection::vec((2u8..=64, 0u8..=127, 0u8..=6), 0..4);
    let noise = prop_oneof![4 => -3i32..=3, 4 => Just(0), 4 => -90i32..90, 1 => any::<i32>()];
    let noise = prop::collection::vec(noise, 1..300);
    (dtype, (0u8..=20, 0u8..=20), step, (any::<bool>(), any::<bool>()), refinements, (1usize..5, 1usize..17), noise)
        .prop_map(|(dtype, planes, step, (row_steps, multipliers), refinements, segments, noise)| Recipe {
            dtype,
            planes,
            step,
            row_steps,
            multipliers,
            refinements,
            segments,
            noise,
        })
}

impl Layered {
    fn new(recipe: &Recipe, place: Place, rows: Vec<i16>, columns: Vec<i16>) -> Layered {
        let Recipe { dtype, planes, step, segments, .. } = *recipe;
        let (n, width) = (place.elements(), place.columns.len());
        let mut noise = recipe.noise.iter().copied().cycle();
        // Any numbers in range, others in each layer.
        let multipliers = |layer: i32| {
            let of_row = |(r, step): (i32, &i16)| ((i32::from(*step) * 7 + 13 * layer + r) & 127) as i16 - 64;
            recipe.multipliers.then(|| IndexArray::new((0..).zip(&rows).map(of_row).collect()))
        };
        let steps = Steps {
            offset: 11,
            multipliers: multipliers(0),
            rows: recipe.row_steps.then(|| IndexArray::new(rows.clone())),
            columns: Some(IndexArray::new(columns.clone())),
            ..Steps::new(step)
        };
        let header = |kind: Kind, plane, body| TensorHeader {
            shape: tables(kind),
            plane,
            row_classes: IndexArray::new(rows.clone()),
            column_classes: IndexArray::new(columns.clone()),
            body,
        };
        // The weights of a layer, computed as in SPEC 10.3; without multipliers, those that an exact layer is predicted from.
        let weights = |z: &[i32], step: f32, offset, multipliers: Option<IndexArray>| -> Vec<u8> {
            let column_scales: Vec<f32> = columns[place.columns.clone()].iter().map(|&i| scale(i.into())).collect();
            let row = |(r, z): (usize, &[i32])| {
                let index = if recipe.row_steps { rows[place.rows.start + r].into() } else { 0 };
                let mut out = vec![0; width * dtype.size()];
                let multiplier = multipliers.as_ref().map_or(0, |array| array.get(place.rows.start + r));
                reconstruct_row(dtype, z, offset, &column_scales, step * row_scale(index, multiplier), &mut out);
                out
            };
            z.chunks_exact(width).enumerate().flat_map(row).collect()
        };
        let base = header(Kind::Lattice, planes.0, Body::Lattice(steps));
        let mut z: Vec<i32> = noise.by_ref().take(n).collect();
        let unit = TileEncoder::new(&base, segments.0).lattice(&place, &z).expect("codes");
        let mut layered = Layered {
            dtype,
            headers: vec![base],
            units: vec![(Mode::LATTICE, unit)],
            integers: vec![z.clone()],
            elements: vec![weights(&z, step, 11, multipliers(0))],
            place: place.clone(),
        };
        let mut predicted = weights(&z, step, 11, None);
        for (k, &(factor, offset, log_states)) in (1..).zip(&recipe.refinements) {
            let (layer_step, multipliers) = (step / f32::from(k * 3u8), multipliers(k.into()));
            let trellis = Trellis::new(log_states);
            let refinement =
                Refinement { offset, trellis, multipliers: multipliers.clone(), ..Refinement::new(factor, layer_step) };
            let kind = trellis.map_or(Kind::Refinement, |_| Kind::TrellisRefinement);
            let finer = header(kind, 0, Body::Refinement(refinement));
            let residuals: Vec<i32> = noise.by_ref().take(n).collect();
            let fine = match trellis {
                None => z.iter().zip(&residuals).map(|(&z, &d)| crate::refinement::fine(factor, z, d)).collect(),
                Some(trellis) => super::trellis::path_above(trellis, &place, segments.1, factor, &z, &residuals),
            };
            let unit = TileEncoder::new(&finer, segments.1).refinement(&place, &z, &fine).expect("codes");
            z = fine;
            layered.headers.push(finer);
            layered.units.push((Mode::REFINEMENT, unit));
            layered.integers.push(z.clone());
            layered.elements.push(weights(&z, layer_step, offset, multipliers));
            predicted = weights(&z, layer_step, offset, None);
        }
        // Elements near the weights, or arbitrary ones.
        let mut elements = predicted.clone();
        for element in elements.chunks_exact_mut(dtype.size()) {
            let add = noise.next().unwrap_or(0).to_le_bytes();
            element.iter_mut().zip(add).for_each(|(byte, add)| *byte = byte.wrapping_add(add));
        }
        let exact = header(Kind::Exact, planes.1, Body::Exact);
        let encoder = TileEncoder::new(&exact, segments.1);
        let unit = encoder.exact(dtype, &place, &z, &predicted, &elements).expect("codes");
        layered.headers.push(exact);
        layered.units.push((Mode::EXACT, unit));
        layered.elements.push(elements);
        layered
    }

    fn decoder(&self, isa: Isa) -> TileDecoder {
        TileDecoder::new(self.dtype, self.headers.clone(), isa).expect("tensor headers in order")
    }

    fn units(&self) -> Vec<Unit<'_>> {
        self.units.iter().map(|(mode, bytes)| Unit { mode: *mode, bytes }).collect()
    }

    fn row_bytes(&self) -> usize {
        self.place.columns.len() * self.dtype.size()
    }
}

proptest! {
    #[test]
    fn every_layer_survives(recipe in recipes(), (place, rows, columns) in placed()) {
        let layered = Layered::new(&recipe, place, rows, columns);
        let units = layered.units();
        for isa in Isa::available() {
            let decoder = layered.decoder(isa);
            for k in 0..units.len() {
                let mut out = vec![0; layered.elements[k].len()];
                decoder.decode(&units[..=k], &layered.place, &mut out, layered.row_bytes())?;
                prop_assert_eq!(&out, &layered.elements[k], "layer {} at {}", k, isa);
                let mut z = vec![0; layered.place.elements()];
                decoder.integers(&units[..=k], &layered.place, &mut z, layered.place.columns.len())?;
                prop_assert_eq!(&z, &layered.integers[k.min(layered.integers.len() - 1)]);
            }
        }
        // Tensor headers survive a round trip through bytes.
        for header in &layered.headers {
            let (rows, columns) = (layered.place.rows.end as u64, layered.place.columns.end as u64);
            prop_assert_eq!(&TensorHeader::read(&header.to_bytes(), layered.dtype, rows, columns)?, header);
        }
    }

    /// A damaged unit in any layer gives an error or some tile, the same with every instruction set.
    #[test]
    fn damage_never_panics(
        recipe in recipes(),
        (place, rows, columns) in placed(),
        layer: prop::sample::Index,
        at: prop::sample::Index,
        to: u8,
        cut: prop::sample::Index,
    ) {
        let mut layered = Layered::new(&recipe, place, rows, columns);
        let layer = layer.index(layered.units.len());
        let unit = &mut layered.units[layer].1;
        let at = at.index(unit.len());
        unit[at] = to;
        let whole = layered.units[layer].1.clone();
        for length in [whole.len(), cut.index(whole.len())] {
            layered.units[layer].1 = whole[..length].to_vec();
            let results: Vec<_> = Isa::available().into_iter().map(|isa| {
                let mut out = vec![0; layered.elements[0].len()];
                let decoder = layered.decoder(isa);
                decoder.decode(&layered.units(), &layered.place, &mut out, layered.row_bytes()).map(|()| out)
            }).collect();
            prop_assert!(results.windows(2).all(|r| r[0] == r[1]));
        }
    }
}

fn small() -> Layered {
    let recipe = Recipe {
        dtype: DType::Bf16,
        planes: (0, 0),
        step: 0.1,
        row_steps: true,
        multipliers: true,
        refinements: vec![(3, 5, 0), (4, 0, 3)],
        segments: (1, 2),
        noise: vec![1, -2, 0, 5],
    };
    Layered::new(&recipe, Place { rows: 0..3, columns: 0..5 }, vec![1, 2, 3], vec![4; 5])
}

#[test]
fn kinds_have_their_layers() {
    let layered = small();
    let of = |order: &[usize]| {
        let headers = order.iter().map(|&i| layered.headers[i].clone()).collect();
        TileDecoder::new(DType::Bf16, headers, Isa::Scalar).map(|_| ())
    };
    for good in [&[0, 1][..], &[0, 2, 1, 3], &[0, 3]] {
        assert_eq!(of(good), Ok(()));
    }
    for (bad, layer, kind) in
        [(&[1, 0][..], 0, 5), (&[3], 0, 6), (&[0, 0], 1, 4), (&[0, 3, 1], 2, 5), (&[0, 1, 3, 3], 3, 6)]
    {
        assert_eq!(of(bad), Err(CodecError::HeaderLayer { layer, kind: Mode(kind) }));
    }
    let float = float_header(DType::Bf16, 0, vec![0; 3], vec![0; 5]);
    let headers = vec![float, layered.headers[1].clone()];
    let refused = TileDecoder::new(DType::Bf16, headers, Isa::Scalar).map(|_| ());
    assert_eq!(refused, Err(CodecError::HeaderLayer { layer: 1, kind: Mode::REFINEMENT }));
}

#[test]
fn modes_have_their_layers() {
    let layered = small();
    let (decoder, units) = (layered.decoder(Isa::Scalar), layered.units());
    let of = |order: &[usize]| {
        let units: Vec<Unit> = order.iter().map(|&i| units[i]).collect();
        decoder.decode(&units, &layered.place, &mut [0; 30], 10)
    };
    assert_eq!(of(&[0, 1, 2, 3]), Ok(()));
    assert_eq!(of(&[1]), Err(CodecError::TileLayer { layer: 0, mode: Mode(5) }));
    assert_eq!(of(&[3]), Err(CodecError::TileLayer { layer: 0, mode: Mode(6) }));
    assert_eq!(of(&[0, 0]), Err(CodecError::TileLayer { layer: 1, mode: Mode(4) }));
    assert_eq!(of(&[0, 1, 2, 3, 3]), Err(CodecError::MissingHeader(Mode::EXACT)));
    assert_eq!(of(&[0, 3]), Err(CodecError::MissingHeader(Mode::EXACT)), "its tensor header is in layer 3");
    let stored = Unit { mode: Mode::STORED, bytes: &[0; 30] };
    let decoded = decoder.decode(&[stored, units[1]], &layered.place, &mut [0; 30], 10);
    assert_eq!(decoded, Err(CodecError::TileLayer { layer: 1, mode: Mode(5) }));
    let decoded = decoder.integers(&[stored], &layered.place, &mut [0; 15], 5);
    assert_eq!(decoded, Err(CodecError::TileLayer { layer: 0, mode: Mode(0) }));
    // Mode exact below a refinement.
    let headers = layered.headers[..3].to_vec();
    let decoder = TileDecoder::new(DType::Bf16, headers, Isa::Scalar).expect("tensor headers in order");
    let decoded = decoder.decode(&[units[0], units[3], units[2]], &layered.place, &mut [0; 30], 10);
    assert_eq!(decoded, Err(CodecError::TileLayer { layer: 1, mode: Mode(6) }));
}

/// SPEC 12.4: row steps are those of layer 0, so their product with the step of any layer must be finite.
#[test]
fn steps_are_finite_in_every_layer() {
    let mut headers = small().headers;
    let Body::Lattice(steps) = &mut headers[0].body else { panic!("lattice") };
    steps.rows = Some(IndexArray::new(vec![0, 1023, -5]));
    let Body::Refinement(refinement) = &mut headers[2].body else { panic!("refinement") };
    refinement.step = 1e20;
    let refused = TileDecoder::new(DType::Bf16, headers, Isa::Scalar).map(|_| ());
    assert!(matches!(refused, Err(CodecError::Field { clause: "12.4", .. })), "{refused:?}");
}

/// Encoders refuse tensor headers of other kinds.
#[test]
fn encoders_want_their_kind() {
    let layered = small();
    let z = &layered.integers[0];
    assert_eq!(TileEncoder::new(&layered.headers[0], 1).refinement(&layered.place, z, z), None);
    let bytes = [0; 15];
    let exact = TileEncoder::new(&layered.headers[3], 1).exact(DType::I8, &layered.place, z, &bytes, &bytes);
    assert_eq!(exact, None);
}
