use std::sync::Arc;

use impasto_codec::Trellis;
use impasto_codec::tile::{TileDecoder, Unit};
use impasto_core::DType;

use super::*;
use crate::feedback::Feedback;
use crate::lattice::{Costs, Parts, PathCosts, Rows, round_on_trellis};
use crate::metric::Metric;
use crate::options::Preset;
use crate::scales::fit;

const ROWS: usize = 70;
const COLUMNS: usize = 96;

/// Weights that include negative zeros, tiny ones and large ones.
fn elements(dtype: DType) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let weight = |i: usize, x: f32| match i % 97 {
        0 => -0.0,
        1 => x * 1e-30,
        2 => x * 40.0,
        _ => x,
    };
    let weights = (0..ROWS * COLUMNS).map(|i| weight(i, next() + next() + next()));
    let bytes = |w: f32| match dtype {
        DType::Bf16 => half::bf16::from_f32(w).to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f32(w).to_le_bytes().to_vec(),
        _ => w.to_le_bytes().to_vec(),
    };
    weights.flat_map(bytes).collect()
}

/// The covariance of inputs with correlated neighbours.
fn feedback() -> Feedback {
    let entry = |i: usize, j: usize| 0.9f32.powi(i.abs_diff(j) as i32) * (1.0 + (i % 5) as f32);
    let covariance: Vec<f32> =
        (0..COLUMNS * COLUMNS).map(|k| entry((k / COLUMNS).max(k % COLUMNS), (k / COLUMNS).min(k % COLUMNS))).collect();
    Feedback::new(&covariance, COLUMNS, 1.0).expect("definite")
}

fn grid() -> Grid {
    let rows = (0..ROWS).map(|r| (r % 7) as i16 - 3).collect();
    let columns = (0..COLUMNS).map(|c| (c % 5) as i16 * 3).collect();
    Grid { rows, columns, ..Grid::new(0.02) }
}

/// For every dtype, the lossy top layer equals a file without layers, and the exact layer restores every bit.
#[test]
fn the_top_is_the_single_layer_and_the_exact_one_the_bits() {
    check_layers(None);
}

/// On a trellis too. What is coded are paths, so that every layer can be decoded without those above.
#[test]
fn layers_on_a_trellis_are_paths() {
    check_layers(Trellis::new(3));
}

fn check_layers(trellis: Option<Trellis>) {
    let (feedback, grid, costs) = (Arc::new(feedback()), grid().on(trellis), Costs::typical());
    let of_paths = PathCosts::typical();
    let trellis = trellis.map(|trellis| (trellis, &of_paths));
    // The rows of the segments of the tile below, and of others.
    let parts = [0..3, 3..33, 33..64, 64..ROWS];
    let metric = Metric { input: None, relative: 1.0, rows: grid.rows.clone(), coarseness: None };
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let elements = elements(dtype);
        let matrix = MatrixView::plain(&elements, dtype, ROWS, COLUMNS);
        let scales = fit(&matrix);
        let lossy = LossyTensor {
            matrix,
            scales: &scales,
            metric: &metric,
            feedback: feedback.clone(),
            costs: &costs,
            tools: None,
            preset: Preset::Best,
            pruning: None,
            format: None,
            trellis,
            fit_widths: false,
            reference: None,
            low_rank: None,
        };
        let top = || match trellis {
            None => lossy.round(&grid, Rows::All),
            Some(trellis) => {
                let parts = Parts::All(parts.to_vec());
                round_on_trellis(&matrix, &scales, &lossy.feedback, &grid, trellis, parts)
            }
        };
        let options = Layers { below: vec![], exact: true, feedback: 0.5 };
        let nested = Nested::new(&lossy, top(), &grid, &[3, 2, 4], &options, &parts);
        assert_eq!(nested.layers(), 5);
        let place = Place { rows: 3..64, columns: 32..96 };
        let units = nested.tile(&place, 2).expect("on the lattice");
        let units: Vec<Unit> = units.iter().map(|(mode, bytes)| Unit { mode: *mode, bytes }).collect();
        let headers: Vec<TensorHeader> = nested
            .headers()
            .map(|header| {
                TensorHeader::read(&header.to_bytes(), dtype, ROWS as u64, COLUMNS as u64).expect("a tensor header")
            })
            .collect();
        let decoder = TileDecoder::new(dtype, headers, impasto_core::Isa::best()).expect("tensor headers");
        let (width, n) = (64 * dtype.size(), COLUMNS * dtype.size());
        let decoded = |layers: usize| {
            let mut out = vec![0; place.elements() * dtype.size()];
            decoder.decode(&units[..layers], &place, &mut out, width).expect("a tile");
            out
        };
        for (k, layer) in nested.lattices.iter().enumerate() {
            let mut z = vec![0; place.elements()];
            decoder.integers(&units[..=k], &place, &mut z, 64).expect("a tile");
            assert_eq!(z, layer.integers.tile(&place), "layer {k}");
            assert_eq!(layer.header.trellis(), trellis.map(|(trellis, _)| trellis));
        }
        let of_tile = |bytes: &[u8]| -> Vec<u8> {
            place.rows.clone().flat_map(|r| bytes[r * n + 32 * dtype.size()..][..width].to_vec()).collect()
        };
        let single: Vec<u8> = {
            let Factors { rows, columns } = grid.factors(ROWS, COLUMNS);
            let mut out = vec![0; elements.len()];
            for ((out, z), &row) in out.chunks_exact_mut(n).zip(top().z.chunks_exact(COLUMNS)).zip(&rows) {
                reconstruct_row(dtype, z, 0, &columns, row, out);
            }
            out
        };
        assert_eq!(decoded(4), of_tile(&single), "{dtype:?}");
        assert_eq!(decoded(5), of_tile(&elements), "{dtype:?}");
        let errors = nested.errors(0..ROWS);
        assert!(errors.windows(2).all(|pair| pair[0] > 2.0 * pair[1]), "{errors:?}");
        assert_eq!(errors[4], 0.0);
        assert_eq!(nested.distortion(&place), 0.0, "the top is exact");
        let top = top();
        // More than the 1/12 of rounding to nearest, or the 0.26 of a trellis: a cheaper integer is chosen now and then, and
        // large weights are rounded to the dtype.
        let mean = top.distortion(&matrix, &grid, &place) / place.elements() as f64;
        let wanted = if trellis.is_some() { 0.2..0.5 } else { 0.05..0.3 };
        assert!(wanted.contains(&mean), "{dtype:?}: {mean} squared steps a weight");
    }
}

/// More feedback gives a better base and larger refinements.
#[test]
fn feedback_makes_the_base_better() {
    let (feedback, grid, costs) = (Arc::new(feedback()), grid(), Costs::typical());
    let elements = elements(DType::F32);
    let matrix = MatrixView::plain(&elements, DType::F32, ROWS, COLUMNS);
    let metric = Metric { input: None, relative: 1.0, rows: grid.rows.clone(), coarseness: None };
    let lossy = LossyTensor {
        matrix,
        scales: &fit(&matrix),
        metric: &metric,
        feedback,
        costs: &costs,
        tools: None,
        preset: Preset::Best,
        pruning: None,
        format: None,
        trellis: None,
        fit_widths: false,
        reference: None,
        low_rank: None,
    };
    let measured = |kept: f32| {
        let top = lossy.round(&grid, Rows::All);
        let options = Layers { below: vec![], exact: false, feedback: kept };
        let nested = Nested::new(&lossy, top, &grid, &[8], &options, &[]);
        let units = nested.tile(&Place { rows: 0..ROWS, columns: 0..COLUMNS }, 1).expect("on the lattice");
        (nested.errors(0..ROWS)[0], units[1].1.len())
    };
    let (none, some, all) = (measured(0.0), measured(0.5), measured(1.0));
    assert!(none.0 > some.0 && some.0 > all.0, "{none:?} {some:?} {all:?}");
    assert!(none.1 < some.1 && some.1 < all.1, "{none:?} {some:?} {all:?}");
}
