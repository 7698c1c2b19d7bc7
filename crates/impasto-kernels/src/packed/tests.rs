use super::*;
use impasto_core::rng::SplitMix64;

/// A matrix before packing.
struct Plain {
    rows: usize,
    columns: usize,
    z: Vec<i32>,
    row_steps: Vec<f32>,
    row_widths: Vec<i32>,
    column_steps: Vec<f32>,
    column_widths: Vec<i32>,
}

fn uniform(rng: &mut SplitMix64) -> f64 {
    rng.next_f64()
}

/// Returns an approximately normal variable with heavy tails.
fn heavy(rng: &mut SplitMix64) -> f64 {
    let normal = (0..6).map(|_| uniform(rng) - 0.5).sum::<f64>() * 1.4;
    normal / uniform(rng).max(0.02).sqrt()
}

impl Plain {
    /// Creates a matrix whose rows and columns have widths from `2^least` to `2^(least + spread)` levels; some integers
    /// have 16 bits.
    fn new(rows: usize, columns: usize, (least, spread): (f64, f64), seed: u64) -> Plain {
        let mut rng = SplitMix64::new(seed);
        let of_rows: Vec<f64> = (0..rows).map(|_| uniform(&mut rng) * spread / 2.0).collect();
        let of_columns: Vec<f64> = (0..columns).map(|_| uniform(&mut rng) * spread / 2.0).collect();
        let mut z = Vec::new();
        for r in &of_rows {
            for c in &of_columns {
                let value = heavy(&mut rng) * (least + r + c).exp2();
                let value = if uniform(&mut rng) < 0.001 { value * 3000.0 } else { value };
                z.push((value as i32).clamp(-100_000, 100_000));
            }
        }
        let step = |bits: &f64| (-bits).exp2() as f32 * 0.01;
        Plain {
            rows,
            columns,
            z,
            row_steps: of_rows.iter().map(step).collect(),
            row_widths: of_rows.iter().map(|bits| (bits * 4.0) as i32).collect(),
            column_steps: of_columns.iter().map(step).collect(),
            column_widths: of_columns.iter().map(|bits| (bits * 4.0) as i32).collect(),
        }
    }

    fn order(&self) -> ColumnOrder {
        ColumnOrder::new(&self.column_steps, &self.column_widths).unwrap()
    }

    /// Packs the matrix in row groups of `group` rows.
    fn pack(&self, group: usize, offset: u8) -> PackedMatrix {
        let order = self.order();
        let groups = (0..self.rows).step_by(group).map(|first| {
            let rows = first..self.rows.min(first + group);
            let z = &self.z[rows.start * self.columns..rows.end * self.columns];
            RowGroup::pack(z, &order, &self.row_steps[rows.clone()], &self.row_widths[rows], offset).unwrap()
        });
        PackedMatrix::new(order.clone(), groups.collect()).unwrap()
    }

    /// Computes a product as the module's documentation defines it, integer by integer.
    fn multiply_int8(&self, x: &[f32], offset: u8) -> Vec<f32> {
        let offset = f32::from(offset) / 256.0;
        let mut order: Vec<usize> = (0..self.columns).collect();
        order.sort_by_key(|&c| self.column_widths[c]);
        let mut out = Vec::new();
        for x in x.chunks_exact(self.columns) {
            let mut sums = vec![0.0f32; self.rows];
            for block in order.chunks(ACTIVATION_BLOCK) {
                let x: Vec<f32> = block.iter().map(|&c| x[c] * self.column_steps[c]).collect();
                let most = x.iter().fold(0.0f32, |most, x| if x.is_finite() { most.max(x.abs()) } else { f32::NAN });
                let broken = x.iter().any(|x| !x.is_finite());
                let scale = if broken { f32::NAN } else { most / 127.0 };
                let q: Vec<i64> = x.iter().map(|x| (x * (127.0 / most)).round_ties_even() as i64).collect();
                for (r, acc) in sums.iter_mut().enumerate() {
                    let z = |c: usize| i64::from(self.z[r * self.columns + c]);
                    let sum: i64 = block.iter().zip(&q).map(|(&c, q)| z(c) * q).sum();
                    let signs: i64 = block.iter().zip(&q).map(|(&c, q)| z(c).signum() * q).sum();
                    let sum = if offset == 0.0 { sum as f32 } else { (signs as f32).mul_add(offset, sum as f32) };
                    *acc = sum.mul_add(scale, *acc);
                }
            }
            out.extend(sums.iter().zip(&self.row_steps).map(|(sum, step)| sum * step));
        }
        out
    }

    /// Returns the exact weight in a row and column.
    fn weight(&self, r: usize, c: usize, offset: u8) -> f64 {
        let z = f64::from(self.z[r * self.columns + c]);
        let away = if z == 0.0 { 0.0 } else { (f64::from(offset) / 256.0).copysign(z) };
        (z + away) * f64::from(self.column_steps[c]) * f64::from(self.row_steps[r])
    }
}

fn activations(rng: &mut SplitMix64, len: usize) -> Vec<f32> {
    (0..len).map(|_| heavy(rng) as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    // All NaNs are equal.
    values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
}

/// Shapes with one or many strips, numbers of columns that are multiples of nothing, incomplete last blocks, several
/// segments of outliers.
const SHAPES: [(usize, usize); 11] = [
    (1, 1),
    (16, 32),
    (17, 33),
    (5, 127),
    (40, 128),
    (33, 300),
    (64, 576),
    (100, 1000),
    (17, 4096),
    (3, 4128),
    (18, 4200),
];

/// Ranges of widths: nearly all zeros, a few bits, 8 bits, and a large number of outliers.
const WIDTHS: [(f64, f64); 4] = [(-5.0, 3.0), (0.0, 4.0), (2.0, 8.0), (8.0, 4.0)];

#[test]
fn shares_have_each_strip_once() {
    let columns = ColumnOrder::new(&[1.0; 3], &[0; 3]).unwrap();
    let of_strips = [0, 3, 1, 18, 2, 0, 5];
    let group = |&strips: &usize| {
        let rows = strips * STRIP;
        RowGroup::pack(&vec![1; rows * 3], &columns, &vec![1.0; rows], &vec![0; rows], 0).unwrap()
    };
    let packed = PackedMatrix::new(columns.clone(), of_strips.iter().map(group).collect()).unwrap();
    let all: Vec<_> = of_strips.iter().enumerate().flat_map(|(group, &n)| (0..n).map(move |s| (group, s))).collect();
    for shares in 1..=all.len() + 3 {
        let parts: Vec<_> = (0..shares).flat_map(|share| packed.share(share, shares)).collect();
        assert!(parts.iter().all(|(_, strips)| strips.start % 2 == 0 && !strips.is_empty()), "pairs stay together");
        let found: Vec<_> = parts.into_iter().flat_map(|(group, strips)| strips.map(move |s| (group, s))).collect();
        assert_eq!(found, all, "{shares} shares");
    }
}

#[test]
fn every_width_in_every_kernel() {
    let (rows, columns, tokens) = (40, 160, 9);
    let mut rng = SplitMix64::new(3);
    let x = activations(&mut rng, tokens * columns);
    let (pool, mut scratch, arena) = (Pool::new(2).unwrap(), Scratch::new(), Arena::new());
    let order = ColumnOrder::new(&vec![1.0; columns], &vec![0; columns]).unwrap();
    for (width, offset) in (1..=8).flat_map(|width| [(width, 0), (width, 77)]) {
        let levels = f64::from(1 << width);
        let z: Vec<i32> =
            (0..rows * columns).map(|_| (rng.next_f64() * levels - levels / 2.0).floor() as i32).collect();
        let group = RowGroup::pack(&z, &order, &vec![1.0; rows], &vec![0; rows], offset).unwrap().keep_in(&arena);
        let packed = PackedMatrix::new(order.clone(), vec![group]).unwrap();
        let cells = rows.div_ceil(STRIP) * columns.div_ceil(cell::GROUP);
        assert_eq!(packed.report().cell_bits, cells * cell::CELL * width, "all cells have {width} bits");
        let mut product = |kernel, activations, tokens: usize| {
            let mut out = vec![0.0; tokens * rows];
            let x = &x[..tokens * columns];
            packed.multiply(kernel, activations, x, tokens, &mut out, rows, &mut scratch, &pool);
            bits(&out)
        };
        let scalar = Kernel::of(impasto_core::Isa::Scalar);
        for (activations, tokens) in
            [Activations::Int8, Activations::F32].into_iter().flat_map(|a| [(a, 1), (a, tokens)])
        {
            let expected = product(scalar, activations, tokens);
            for kernel in Kernel::available() {
                assert_eq!(product(kernel, activations, tokens), expected, "{kernel}, {width} bits, {activations:?}");
            }
        }
    }
}

#[test]
fn integers_and_weights_come_back() {
    for (seed, &(rows, columns)) in SHAPES.iter().enumerate() {
        for widths in WIDTHS {
            let plain = Plain::new(rows, columns, widths, seed as u64);
            let packed = plain.pack(24, 64);
            assert_eq!((packed.outputs(), packed.inputs()), (rows, columns));
            let (mut z, mut weights) = (vec![0; columns], vec![0.0; columns]);
            // Reading a row walks over its whole strip, so only some rows of the large shapes are read.
            for r in (0..rows).step_by(if rows * columns > 10_000 { rows.div_ceil(3) } else { 1 }) {
                packed.integers(r, &mut z);
                assert_eq!(z, plain.z[r * columns..][..columns]);
                packed.row(r, &mut weights);
                for (c, &w) in weights.iter().enumerate() {
                    let exact = plain.weight(r, c, 64);
                    assert!((f64::from(w) - exact).abs() <= exact.abs() * 2e-7);
                }
            }
        }
    }
}

#[test]
fn every_kernel_gives_the_bits_of_the_definition() {
    let pools = [Pool::new(1).unwrap(), Pool::new(3).unwrap()];
    let mut scratch = Scratch::new();
    for (seed, &(rows, columns)) in SHAPES.iter().enumerate() {
        for (widths, offset) in WIDTHS.into_iter().flat_map(|w| [(w, 0), (w, 77)]) {
            let plain = Plain::new(rows, columns, widths, seed as u64);
            let packed = plain.pack(48, offset);
            let tokens = 23;
            let x = activations(&mut SplitMix64::new(1), tokens * columns);
            let expected = bits(&plain.multiply_int8(&x, offset));
            for kernel in Kernel::available() {
                for (tokens, pool) in
                    [1, 2, 3, 4, 5, 8, 17, 23].into_iter().flat_map(|t| pools.each_ref().map(|p| (t, p)))
                {
                    let stride = rows + 3;
                    let mut out = vec![-1.0; (tokens - 1) * stride + rows];
                    let x = &x[..tokens * columns];
                    packed.multiply(kernel, Activations::Int8, x, tokens, &mut out, stride, &mut scratch, pool);
                    for (out, expected) in out.chunks(stride).zip(expected.chunks(rows)) {
                        assert_eq!(bits(&out[..rows]), expected, "{kernel} {rows}x{columns} {tokens} {widths:?}");
                        assert!(out[rows..].iter().all(|&gap| gap == -1.0));
                    }
                }
            }
        }
    }
}

#[test]
fn float_activations_give_the_same_bits_and_small_errors() {
    let pools = [Pool::new(1).unwrap(), Pool::new(2).unwrap()];
    let mut scratch = Scratch::new();
    for (seed, &(rows, columns)) in SHAPES.iter().enumerate() {
        for (widths, offset) in WIDTHS.into_iter().flat_map(|w| [(w, 0), (w, 77)]) {
            let plain = Plain::new(rows, columns, widths, seed as u64);
            let packed = plain.pack(48, offset);
            let x = activations(&mut SplitMix64::new(1), 9 * columns);
            let mut expected = vec![0.0; 9 * rows];
            packed.multiply(
                Kernel::of(impasto_core::Isa::Scalar),
                Activations::F32,
                &x,
                9,
                &mut expected,
                rows,
                &mut scratch,
                &pools[0],
            );
            for (x, out) in x.chunks_exact(columns).zip(expected.chunks_exact(rows)) {
                for (r, &out) in out.iter().enumerate() {
                    let terms = (0..columns).map(|c| plain.weight(r, c, offset) * f64::from(x[c]));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                    assert!((f64::from(out) - sum).abs() <= size * 1e-6 + 1e-30, "{rows}x{columns} {widths:?}");
                }
            }
            for (kernel, pool) in Kernel::available().into_iter().flat_map(|k| pools.each_ref().map(|p| (k, p))) {
                for tokens in [1, 2, 3, 4, 9] {
                    let mut out = vec![0.0; tokens * rows];
                    let x = &x[..tokens * columns];
                    packed.multiply(kernel, Activations::F32, x, tokens, &mut out, rows, &mut scratch, pool);
                    assert_eq!(bits(&out), bits(&expected[..tokens * rows]), "{kernel} {rows}x{columns} {widths:?}");
                }
            }
        }
    }
}

#[test]
fn broken_activations_break_their_token_alone() {
    let plain = Plain::new(20, 700, (1.0, 4.0), 3);
    let packed = plain.pack(20, 0);
    let pool = Pool::new(1).unwrap();
    let clean = activations(&mut SplitMix64::new(2), 3 * 700);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0xFFFF_FFFF)] {
        let mut x = clean.clone();
        x[700 + 444] = value;
        for kernel in Kernel::available() {
            let mut scratch = Scratch::new();
            let mut out = vec![0.0; 60];
            packed.multiply(kernel, Activations::Int8, &x, 3, &mut out, 20, &mut scratch, &pool);
            assert!(out[20..40].iter().all(|v| v.is_nan()));
            assert!(out[..20].iter().chain(&out[40..]).all(|v| v.is_finite()));
            packed.multiply(kernel, Activations::F32, &x, 3, &mut out, 20, &mut scratch, &pool);
            assert!(out[..20].iter().chain(&out[40..]).all(|v| v.is_finite()));
        }
    }
    let mut out = vec![1.0; 20];
    packed.multiply(Kernel::best(), Activations::Int8, &[0.0; 700], 1, &mut out, 20, &mut Scratch::new(), &pool);
    assert_eq!(out, [0.0; 20]);
}

#[test]
fn refusals() {
    let columns = ColumnOrder::new(&[1.0; 3], &[0; 3]).unwrap();
    let count = |what, found, expected| PackError::Count { what, found, expected };
    assert_eq!(ColumnOrder::new(&[1.0; 3], &[0; 2]), Err(count("widths of columns", 2, 3)));
    let step = ColumnOrder::new(&[1.0, f32::INFINITY], &[0; 2]).unwrap_err();
    assert_eq!(step.to_string(), "the step inf of column 1: steps must be finite");
    let pack = |z: &[i32], steps: &[f32], widths: &[i32]| RowGroup::pack(z, &columns, steps, widths, 0).unwrap_err();
    assert_eq!(pack(&[0; 5], &[1.0; 2], &[0; 2]), count("integers", 5, 6));
    assert_eq!(pack(&[0; 6], &[1.0; 2], &[0; 1]), count("widths of rows", 1, 2));
    assert_eq!(pack(&[0, 0, 0, 0, -(1 << 24), 9], &[1.0; 2], &[0; 2]), PackError::Integers { row: 1 });
    assert_eq!(pack(&[i32::MIN; 3], &[1.0], &[0]), PackError::Integers { row: 0 });
    assert!(matches!(pack(&[0; 3], &[f32::NAN], &[0]), PackError::Step { what: "row", index: 0, .. }));
    let group =
        RowGroup::pack(&[0; 3], &ColumnOrder::new(&[1.0, 1.0, 2.0], &[0; 3]).unwrap(), &[1.0], &[0], 0).unwrap();
    assert_eq!(PackedMatrix::new(columns, vec![group]).unwrap_err(), PackError::OtherColumns(0));
}

#[test]
fn nothing_is_a_matrix_too() {
    let pool = Pool::new(1).unwrap();
    let none = ColumnOrder::new(&[], &[]).unwrap();
    let group = RowGroup::pack(&[], &none, &[1.0; 3], &[0; 3], 0).unwrap();
    let matrix = PackedMatrix::new(none, vec![group]).unwrap();
    let mut out = [1.0; 6];
    for kernel in Kernel::available() {
        matrix.multiply(kernel, Activations::Int8, &[], 2, &mut out, 3, &mut Scratch::new(), &pool);
        assert_eq!(out, [0.0; 6]);
        matrix.multiply(kernel, Activations::F32, &[], 2, &mut out, 3, &mut Scratch::new(), &pool);
    }
    let columns = ColumnOrder::new(&[1.0; 40], &[0; 40]).unwrap();
    let empty = PackedMatrix::new(columns, vec![]).unwrap();
    empty.multiply(Kernel::best(), Activations::Int8, &[1.0; 40], 1, &mut [], 0, &mut Scratch::new(), &pool);
    assert_eq!((empty.outputs(), empty.inputs(), empty.report().outliers), (0, 40, 0));
}
