//! Speed of products with ggml's blocks and with 16-bit floats, with every kernel of this processor and all its threads:
//! one token times a matrix larger than the caches, in bytes of the blocks and in weights; and many tokens, in products of
//! a weight and an activation.

#[path = "support/random.rs"]
mod random;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use impasto_core::{DType, Isa};
use impasto_kernels::blocks::{BlockMatrix, Scratch};
use impasto_kernels::dense::DenseMatrix;
use impasto_kernels::packed::{Activations, Arena, Kernel};
use impasto_kernels::{Pool, Workers};
use random::Rng;

const ROWS: usize = 32768;
const COLUMNS: usize = 2048;
const MANY: usize = 96;

fn bytes(len: usize) -> Vec<u8> {
    let mut rng = Rng(1);
    // Without the highest exponents of a binary16, so that scales are finite.
    (0..len).map(|_| rng.next() as u8 & 0xBB).collect()
}

fn activations(tokens: usize) -> Vec<f32> {
    let mut rng = Rng(2);
    (0..tokens * COLUMNS).map(|_| rng.normal() as f32).collect()
}

/// Measures `multiply` with one token and with many.
fn products(
    c: &mut Criterion,
    name: &str,
    how: impl std::fmt::Display,
    bytes: usize,
    mut multiply: impl FnMut(&[f32], &mut [f32]),
) {
    for (group, tokens) in [("decode", 1), ("prefill", MANY)] {
        let mut group: BenchmarkGroup<WallTime> = c.benchmark_group(group);
        group.sample_size(10).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(200));
        let elements = (tokens * ROWS * COLUMNS) as u64;
        group.throughput(match tokens {
            1 => Throughput::ElementsAndBytes { elements, bytes: bytes as u64 },
            _ => Throughput::Elements(elements),
        });
        let (x, mut out) = (activations(tokens), vec![0.0; tokens * ROWS]);
        group.bench_function(format!("{name}/{how}"), |b| b.iter(|| multiply(black_box(&x), &mut out)));
    }
}

fn blocks(c: &mut Criterion) {
    let (pool, mut scratch) = (Pool::new(0).expect("threads"), Scratch::default());
    let workers = Workers::new(pool.threads(), Isa::best());
    for dtype in DType::BLOCKS.into_iter().filter(|&dtype| BlockMatrix::packs(dtype)) {
        let blocks = bytes(ROWS * COLUMNS / dtype.weights() * dtype.size());
        let matrix = BlockMatrix::pack(dtype, &blocks, [ROWS, COLUMNS], &Arena::new(), &pool).expect("whole blocks");
        for kernel in Kernel::available() {
            products(c, dtype.name(), kernel, blocks.len(), |x, out| {
                matrix.multiply(kernel, Activations::Int8, x, out, ROWS, &mut scratch, &workers, &pool);
            });
        }
    }
}

fn floats(c: &mut Criterion) {
    let (pool, arena) = (Pool::new(0).expect("threads"), Arena::new());
    let bits: Vec<u16> = bytes(2 * ROWS * COLUMNS).as_chunks().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
    let matrices = [
        ("BF16", DenseMatrix::of_bf16(bits.clone(), ROWS, COLUMNS)),
        ("F16", DenseMatrix::of_f16(bits, ROWS, COLUMNS)),
    ];
    for (name, matrix) in matrices {
        let matrix = matrix.keep_in(&arena);
        for isa in Isa::available() {
            let workers = Workers::new(pool.threads(), isa);
            products(c, name, isa, matrix.memory_bytes(), |x, out| matrix.multiply(x, out, ROWS, &workers, &pool));
        }
    }
}

criterion_group!(benches, blocks, floats);
criterion_main!(benches);
