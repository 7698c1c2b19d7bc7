use super::*;
use crate::Workers;
use crate::packed::{Activations, Kernel};
use half::f16;
use impasto_core::blocks::dequantize;
use impasto_core::rng::SplitMix64;

fn dtypes() -> impl Iterator<Item = DType> {
    DType::BLOCKS.into_iter()
}

/// Random blocks whose scales and minimums are finite.
fn blocks(dtype: DType, count: usize, rng: &mut SplitMix64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..count * dtype.size()).map(|_| rng.next_u64() as u8).collect();
    // The positions of the binary16.
    let halves: &[usize] = match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::Tq1_0 => &[52],
        DType::Tq2_0 => &[64],
        DType::Iq1M | DType::Mxfp4 => &[],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(dtype.size()) {
        let scale = |rng: &mut SplitMix64| f16::from_f64((rng.next_f64() - 0.3) * 0.01);
        for &at in halves {
            block[at..at + 2].copy_from_slice(&scale(rng).to_le_bytes());
        }
        match dtype {
            // The smallest power is subnormal.
            DType::Mxfp4 => block[0] = [0, 1, 2, 118, 119, 120, 121, 122][usize::from(block[0] % 8)],
            DType::Iq1M => {
                let scale = scale(rng).to_bits();
                let part = |i: usize| (scale >> (4 * i) & 15) as u8 * 16;
                (0..4).for_each(|i| block[49 + 2 * i] = block[49 + 2 * i] & 15 | part(i));
            }
            _ => {}
        }
    }
    bytes
}

fn random(rng: &mut SplitMix64, len: usize) -> Vec<f32> {
    (0..len).map(|_| ((rng.next_f64() - 0.5) / (rng.next_f64() + 0.02)) as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    // All NaNs are equal.
    values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
}

/// A matrix, its blocks and its weights.
struct Case {
    matrix: BlockMatrix,
    weights: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Case {
    fn new(dtype: DType, outputs: usize, blocks_of_row: usize, rng: &mut SplitMix64) -> Case {
        let inputs = blocks_of_row * dtype.weights();
        let bytes = blocks(dtype, outputs * blocks_of_row, rng);
        let mut weights = vec![0.0; outputs * inputs];
        assert!(dequantize(dtype, &bytes, &mut weights));
        let (arena, pool) = (Arena::new(), Pool::new(2).unwrap());
        let matrix = BlockMatrix::pack(dtype, &bytes, [outputs, inputs], &arena, &pool).unwrap();
        Case { matrix, weights, inputs, outputs }
    }

    fn multiply(&self, kernel: Kernel, how: Activations, x: &[f32], threads: usize, scratch: &mut Scratch) -> Vec<f32> {
        let (pool, workers) = (Pool::new(threads).unwrap(), Workers::new(threads, kernel.isa()));
        let (tokens, stride) = (x.len() / self.inputs, self.outputs + 3);
        let mut out = vec![9.0; tokens * stride];
        self.matrix.multiply(kernel, how, x, &mut out, stride, scratch, &workers, &pool);
        let rows = out.chunks(stride);
        rows.flat_map(|row| {
            assert_eq!(row[self.outputs..], [9.0; 3]);
            row[..self.outputs].to_vec()
        })
        .collect()
    }

    /// The product by the definition in `kernel`, except for the order of its additions, and the sum of the magnitudes
    /// of its terms.
    fn expected(&self, x: &[f32]) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        for x in x.chunks_exact(self.inputs) {
            let quantized: Vec<f64> = x
                .chunks(32)
                .flat_map(|x| {
                    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    let q = |x: &f32| f64::from((x * (127.0 / most)).round_ties_even() * (most / 127.0));
                    x.iter().map(q).collect::<Vec<f64>>()
                })
                .collect();
            for row in self.weights.chunks_exact(self.inputs) {
                let terms = || row.iter().zip(&quantized).map(|(w, x)| f64::from(*w) * x);
                out.push((terms().sum(), terms().map(f64::abs).sum()));
            }
        }
        out
    }
}

#[test]
fn rows_are_the_weights() {
    let mut rng = SplitMix64::new(1);
    for dtype in dtypes() {
        for (outputs, blocks_of_row) in [(1, 1), (16, 3), (37, 2), (300, 1)] {
            let Case { matrix, weights, inputs, .. } = Case::new(dtype, outputs, blocks_of_row, &mut rng);
            let mut row = vec![7.0; inputs];
            for (index, expected) in weights.chunks(inputs).enumerate() {
                matrix.row(index, &mut row);
                assert_eq!(bits(&row), bits(expected), "{} row {index}", dtype.name());
            }
        }
    }
}

#[test]
fn every_kernel_has_its_own_lanes() {
    struct Name;
    impl lanes::OnLanes for Name {
        type Output = &'static str;

        fn run<L: lanes::Lanes>(self, _: L) -> &'static str {
            std::any::type_name::<L>()
        }
    }
    let mut names: Vec<_> = Kernel::available().into_iter().map(|kernel| lanes::run(kernel, Name)).collect();
    names.dedup();
    assert_eq!(names.len(), Kernel::available().len(), "{names:?}");
}

#[test]
fn products_are_the_same_bits_with_every_kernel_and_number_of_threads() {
    let mut rng = SplitMix64::new(2);
    let mut scratch = Scratch::default();
    for dtype in dtypes() {
        for (outputs, blocks_of_row) in [(1, 1), (40, 3), (289, 1)] {
            let case = Case::new(dtype, outputs, blocks_of_row, &mut rng);
            for tokens in [1, 2, 5, 7, 12] {
                let x = random(&mut rng, tokens * case.inputs);
                let expected = case.expected(&x);
                let first = case.multiply(Kernel::of(Isa::Scalar), Activations::Int8, &x, 1, &mut scratch);
                for (at, (y, (sum, size))) in first.iter().zip(&expected).enumerate() {
                    // A few roundings of the sums, and of the scales of groups.
                    let error = (f64::from(*y) - sum).abs();
                    assert!(error <= size * 1e-6 + 1e-6, "{} {tokens} {at}: {y} {sum}", dtype.name());
                }
                for (kernel, threads) in Kernel::available().into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 3)]) {
                    let y = case.multiply(kernel, Activations::Int8, &x, threads, &mut scratch);
                    assert_eq!(bits(&y), bits(&first), "{} {kernel} {tokens}", dtype.name());
                }
            }
        }
    }
}

#[test]
fn floats_are_multiplied_as_they_are() {
    let mut rng = SplitMix64::new(3);
    for dtype in dtypes() {
        let case = Case::new(dtype, 35, 2, &mut rng);
        for tokens in [1, 6] {
            let x = random(&mut rng, tokens * case.inputs);
            let y = case.multiply(Kernel::best(), Activations::F32, &x, 2, &mut Scratch::default());
            let sums = x.chunks(case.inputs).flat_map(|x| {
                case.weights.chunks(case.inputs).map(move |w| {
                    let terms = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>())
                })
            });
            for (y, (sum, size)) in y.iter().zip(sums) {
                assert!((f64::from(*y) - sum).abs() <= size * 1e-6, "{}: {y} {sum}", dtype.name());
            }
        }
    }
}

#[test]
fn activations_that_are_not_numbers_concern_their_token_alone() {
    let mut rng = SplitMix64::new(4);
    let case = Case::new(DType::Q4K, 20, 1, &mut rng);
    let mut x = random(&mut rng, 3 * case.inputs);
    let before = case.multiply(Kernel::best(), Activations::Int8, &x, 1, &mut Scratch::default());
    x[case.inputs + 40] = f32::INFINITY;
    for kernel in Kernel::available() {
        let y = case.multiply(kernel, Activations::Int8, &x, 1, &mut Scratch::default());
        assert!(y[20..40].iter().all(|y| y.is_nan()));
        assert_eq!((bits(&y[..20]), bits(&y[40..])), (bits(&before[..20]), bits(&before[40..])));
    }
}

#[test]
fn memory_is_that_of_the_blocks() {
    let mut rng = SplitMix64::new(5);
    for dtype in dtypes() {
        let case = Case::new(dtype, 512, 1536 / dtype.weights(), &mut rng);
        let blocks = case.weights.len() / dtype.weights() * dtype.size();
        let ratio = case.matrix.memory_bytes() as f64 / blocks as f64;
        assert!((1.0..=1.05).contains(&ratio), "{}: {ratio}", dtype.name());
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let (arena, pool) = (Arena::new(), Pool::new(1).unwrap());
    let pack = |dtype, bytes: usize, shape| {
        BlockMatrix::pack(dtype, &vec![0; bytes], shape, &arena, &pool).err().map(|error| error.to_string())
    };
    assert_eq!(pack(DType::Q4_0, 36, [2, 32]), None);
    assert_eq!(pack(DType::Q4_0, 36, [2, 33]), Some("columns of whole blocks: there are 33, not 32".into()));
    assert_eq!(pack(DType::Q4_0, 36, [3, 32]), Some("blocks: there are 2, not 3".into()));
    assert_eq!(pack(DType::Q4_0, 37, [2, 32]), Some("bytes of whole blocks: there are 37, not 36".into()));
    assert_eq!(pack(DType::F16, 64, [1, 32]), Some("blocks of F16 have no packed form".into()));
    assert_eq!(pack(DType::Q4K, 0, [0, 256]), None);
}
