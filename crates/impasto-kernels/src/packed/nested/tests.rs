//! Products at every layer, compared with those of a packed matrix of that layer.

use impasto_core::rng::SplitMix64;

use super::super::{Activations, Arena, ColumnOrder, Kernel, PackedMatrix, Pool, RowGroup, Scratch};
use super::*;

/// The integers of three layers of a matrix, with factors 3 and 2, or 6 in between.
struct Layers {
    rows: usize,
    columns: usize,
    z: Vec<Vec<i32>>,
    factors: Vec<i32>,
    offsets: [u8; 3],
    order: ColumnOrder,
    widths: Vec<i32>,
}

impl Layers {
    /// `spread` is about the largest integer; `offsets` are those of the layers.
    fn new(rows: usize, columns: usize, spread: f64, offsets: [u8; 3], seed: u64) -> Layers {
        let mut rng = SplitMix64::new(seed);
        let mut random = move || rng.next_f64() + rng.next_f64() - 1.0;
        let scales: Vec<f64> = (0..columns).map(|_| (random() * 2.0).exp2()).collect();
        let mut finest = Vec::new();
        for i in 0..rows * columns {
            let far = if random() > 0.97 { 300.0 } else { 1.0 };
            finest.push((random() * spread * scales[i % columns] * far) as i32);
        }
        // Layers are rounded with some error, as error feedback does.
        let mut coarser = |z: &[i32], factor: i32| {
            z.iter().map(|&z| (f64::from(z) / f64::from(factor) + random() * 0.4).round() as i32).collect::<Vec<i32>>()
        };
        let middle = coarser(&finest, 2);
        let base = coarser(&middle, 3);
        let widths: Vec<i32> = scales.iter().map(|scale| (scale.log2() * 4.0) as i32).collect();
        let order = ColumnOrder::new(&scales.iter().map(|&s| s as f32).collect::<Vec<_>>(), &widths).unwrap();
        let widths = (0..rows as i32).map(|row| row * 7 % 5).collect();
        Layers { rows, columns, z: vec![base, middle, finest], factors: vec![3, 2], offsets, order, widths }
    }

    fn steps(&self, layer: usize) -> Vec<f32> {
        (0..self.rows).map(|row| (row + 1) as f32 * 0.37 / (layer + 1) as f32).collect()
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
        let planes = layers.windows(2).map(|pair| {
            let &[below, layer] = pair else { unreachable!("pairs") };
            let (steps, factor) = (self.steps(layer), self.factors[below..layer].iter().product());
            let planes = self.groups().map(|rows| {
                let of = |layer: usize| &self.z[layer][rows.start * self.columns..rows.end * self.columns];
                let rows_of =
                    LayerRows { integers: of(layer), row_steps: &steps[rows.clone()], offset: self.offsets[layer] };
                let widths = &self.widths[rows.clone()];
                Plane::pack(rows_of, of(below), &self.order, widths, factor).unwrap().keep_in(&arena)
            });
            planes.collect()
        });
        NestedMatrix::new(self.packed(layers[0]), planes.collect()).unwrap()
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
    let layers = Layers::new(64, 1024, 20.0, [0; 3], 7);
    let (alone, all, two) = (layers.packed(2), layers.nested(&[0, 1, 2]), layers.nested(&[0, 2]));
    assert!(two.memory_bytes() < all.memory_bytes());
    assert!(all.memory_bytes() < alone.memory_bytes() * 3 / 2, "{} {}", all.memory_bytes(), alone.memory_bytes());
    assert_eq!(all.bytes_at(2), all.bytes_at(9));
    assert!(all.bytes_at(0) < all.bytes_at(1) && all.bytes_at(1) < all.bytes_at(2));
}

#[test]
fn planes_of_other_rows_are_refused() {
    let layers = Layers::new(30, 40, 3.0, [0; 3], 1);
    let mut planes: Vec<Vec<Plane>> = layers.nested(&[1, 2]).layers;
    assert!(matches!(NestedMatrix::new(layers.packed(1), vec![vec![]]), Err(PackError::Count { .. })));
    planes[0].reverse();
    assert_eq!(NestedMatrix::new(layers.packed(1), planes).unwrap_err(), PackError::OtherRows(0));
    let z = vec![1 << 25; 40];
    let rows = LayerRows { integers: &z, row_steps: &[1.0], offset: 0 };
    let refused = Plane::pack(rows, &[0; 40], &layers.order, &[0], 2).unwrap_err();
    assert_eq!(refused, PackError::Integers { row: 0 });
}
