//! Products at every layer, compared with those of a packed matrix of that layer.

use impasto_core::rng::SplitMix64;

use super::super::{Activations, Arena, ColumnOrder, Kernel, PackedMatrix, Pool, RowGroup, Scratch};
use super::*;

/// The integers of three layers of a matrix.
struct Layers {
    rows: usize,
    columns: usize,
    z: Vec<Vec<i32>>,
    factors: [i32; 2],
    offsets: [u8; 3],
    order: ColumnOrder,
    widths: Vec<i32>,
}

impl Layers {
    /// `spread` is about the largest integer; layers differ by `factors`, and are rounded with an error of at most `error`.
    fn of(
        [rows, columns]: [usize; 2],
        spread: f64,
        offsets: [u8; 3],
        factors: [i32; 2],
        error: f64,
        seed: u64,
    ) -> Layers {
        let mut rng = SplitMix64::new(seed);
        let mut random = move || rng.next_f64() + rng.next_f64() - 1.0;
        let scales: Vec<f64> = (0..columns).map(|_| (random() * 2.0).exp2()).collect();
        let mut finest = Vec::new();
        for i in 0..rows * columns {
            let far = if random() > 0.97 { 300.0 } else { 1.0 };
            finest.push((random() * spread * scales[i % columns] * far) as i32);
        }
        // Midpoints toward zero, and rounded with some error, as error feedback does.
        let mut coarser = |z: &[i32], factor: i32, error: f64| {
            let quotient = |z: i32| f64::from(z) / f64::from(factor) - 0.01 * f64::from(z.signum());
            z.iter().map(|&z| (quotient(z) + random() * error).round() as i32).collect::<Vec<i32>>()
        };
        let middle = coarser(&finest, factors[1], error);
        let base = coarser(&middle, factors[0], error);
        let widths: Vec<i32> = scales.iter().map(|scale| (scale.log2() * 4.0) as i32).collect();
        let order = ColumnOrder::new(&scales.iter().map(|&s| s as f32).collect::<Vec<_>>(), &widths).unwrap();
        let widths = (0..rows as i32).map(|row| row * 7 % 5).collect();
        Layers { rows, columns, z: vec![base, middle, finest], factors, offsets, order, widths }
    }

    fn new(rows: usize, columns: usize, spread: f64, offsets: [u8; 3], seed: u64) -> Layers {
        let factors = [[2, 3], [3, 2], [4, 2], [2, 7], [1, 1]][seed as usize % 5];
        Layers::of([rows, columns], spread, offsets, factors, [0.4, 0.0][seed as usize % 2], seed)
    }

    fn steps(&self, layer: usize) -> Vec<f32> {
        let divisor = [1.0, self.factors[0] as f32, (self.factors[0] * self.factors[1]) as f32][layer];
        (0..self.rows).map(|row| (row + 1) as f32 * 0.37 / divisor).collect()
    }

    /// The packed matrix of one layer, in row groups of 24 rows.
    fn packed(&self, layer: usize) -> PackedMatrix {
        let steps = self.steps(layer);
        let groups = self.groups().map(|rows| {
            let z = &self.z[layer][rows.start * self.columns..rows.end * self.columns];
            let (steps, widths) = (&steps[rows.clone()], &self.widths[rows]);
            RowGroup::pack(z, &self.order, steps, widths, self.offsets[layer]).unwrap()
        });
        PackedMatrix::new(self.order.clone(), groups.collect()).unwrap()
    }

    fn groups(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.rows).step_by(24).map(|first| first..self.rows.min(first + 24))
    }

    /// The nested matrix of some layers.
    fn nested(&self, layers: &[usize]) -> NestedMatrix {
        let arena = Arena::new();
        let steps: Vec<Vec<f32>> = layers.iter().map(|&layer| self.steps(layer)).collect();
        let rows = self.groups().map(|rows| {
            let of_layer = |(&layer, steps): (&usize, &'_ Vec<f32>)| (layer, steps[rows.clone()].to_vec());
            let steps: Vec<(usize, Vec<f32>)> = layers.iter().zip(&steps).map(of_layer).collect();
            let of_layers: Vec<LayerRows> = steps
                .iter()
                .map(|(layer, steps)| LayerRows {
                    integers: &self.z[*layer][rows.start * self.columns..rows.end * self.columns],
                    row_steps: steps,
                    offset: self.offsets[*layer],
                })
                .collect();
            NestedRows::pack(&of_layers, &self.order, &self.widths[rows]).unwrap().keep_in(&arena)
        });
        NestedMatrix::new(self.order.clone(), rows.collect()).unwrap()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn products_have_the_bits_of_each_layer_alone() {
    let pools = [Pool::new(1).unwrap(), Pool::new(3).unwrap()];
    let mut scratch = Scratch::new();
    let shapes = [(1, 1), (17, 33), (40, 128), (33, 300), (70, 576), (18, 4200)];
    for (seed, (rows, columns)) in shapes.into_iter().enumerate() {
        for (spread, offsets) in [(3.0, [0; 3]), (40.0, [0, 77, 0]), (90.0, [40, 0, 9])] {
            let layers = Layers::new(rows, columns, spread, offsets, seed as u64);
            let mut rng = SplitMix64::new(9);
            let x: Vec<f32> = (0..7 * columns).map(|_| rng.next_f64() as f32 - 0.5).collect();
            for kept in [&[0, 1, 2][..], &[0, 2], &[1, 2], &[2]] {
                let nested = layers.nested(kept);
                assert_eq!((nested.layers(), nested.outputs(), nested.inputs()), (kept.len(), rows, columns));
                for (index, &layer) in kept.iter().enumerate() {
                    let alone = layers.packed(layer);
                    for (kernel, tokens) in
                        Kernel::available().into_iter().flat_map(|kernel| [1, 3, 5, 7].map(|tokens| (kernel, tokens)))
                    {
                        let (mut out, mut expected) = (vec![0.0; tokens * rows], vec![0.0; tokens * rows]);
                        let x = &x[..tokens * columns];
                        for pool in &pools {
                            let int8 = Activations::Int8;
                            nested.multiply(index, kernel, int8, x, tokens, &mut out, rows, &mut scratch, pool);
                            alone.multiply(kernel, int8, x, tokens, &mut expected, rows, &mut scratch, pool);
                            assert_eq!(bits(&out), bits(&expected), "{kernel} {rows}x{columns} {kept:?} {layer}");
                        }
                        let f32 = Activations::F32;
                        nested.multiply(index, kernel, f32, x, tokens, &mut out, rows, &mut scratch, &pools[1]);
                        alone.multiply(kernel, f32, x, tokens, &mut expected, rows, &mut scratch, &pools[1]);
                        let size = expected.iter().fold(0.0f32, |most, y| most.max(y.abs()));
                        assert!(out.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= size * 1e-5), "{kernel} f32");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_and_weights_of_every_layer_come_back() {
    for spread in [3.0, 90.0] {
        let layers = Layers::new(37, 300, spread, [0, 77, 3], 5);
        let nested = layers.nested(&[0, 1, 2]);
        let (mut z, mut weights, mut alone) = (vec![0; 300], vec![0.0; 300], vec![0.0; 300]);
        for layer in 0..3 {
            for row in [0, 1, 15, 16, 23, 24, 36] {
                nested.integers(layer, row, &mut z);
                assert_eq!(z, layers.z[layer][row * 300..][..300]);
                nested.row(layer, row, &mut weights);
                layers.packed(layer).row(row, &mut alone);
                assert_eq!(bits(&weights), bits(&alone), "layer {layer} row {row}");
            }
        }
    }
}

#[test]
fn planes_take_what_they_add() {
    // The last strip of each row group is half empty, which digits of factor 3 do not notice.
    for (factors, most) in [([2, 2], 1.06), ([2, 3], 1.12), ([3, 2], 1.2)] {
        let layers = Layers::of([64, 1024], 10.0, [0; 3], factors, 0.0, 7);
        let (alone, all) = (layers.packed(2), layers.nested(&[0, 1, 2]));
        let ratio = all.memory_bytes() as f64 / alone.memory_bytes() as f64;
        assert!(ratio < most, "{factors:?}: {ratio}");
        assert_eq!(all.bytes_at(2), all.bytes_at(9));
        assert!(all.bytes_at(0) < all.bytes_at(1) && all.bytes_at(1) < all.bytes_at(2));
    }
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let order = ColumnOrder::new(&[1.0; 40], &[0; 40]).unwrap();
    let pack = |layers: &[LayerRows]| NestedRows::pack(layers, &order, &[0]).map(|_| ());
    let (large, small) = (vec![1 << 25; 40], vec![1; 40]);
    let rows = |integers| LayerRows { integers, row_steps: &[1.0], offset: 0 };
    assert_eq!(pack(&[]), Err(PackError::Count { what: "layers", found: 0, expected: 1 }));
    assert_eq!(pack(&[rows(&small), rows(&large)]), Err(PackError::Integers { row: 0 }));
    assert!(matches!(pack(&[rows(&small[1..]), rows(&small)]), Err(PackError::Count { .. })));
    assert_eq!(pack(&[rows(&small), rows(&small)]), Ok(()));
    let two = NestedRows::pack(&[rows(&small), rows(&small)], &order, &[0]).unwrap();
    let one = NestedRows::pack(&[rows(&small)], &order, &[0]).unwrap();
    assert!(matches!(NestedMatrix::new(order, vec![two, one]), Err(PackError::Count { .. })));
}
