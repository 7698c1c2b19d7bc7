//! Speed of packed products, with every kernel of this processor and all its threads.
//!
//! `decode`: one token times a matrix larger than the caches, for each width and for mixed widths, in bytes of the
//! matrix and in weights; for comparison, `read` only reads as many bytes. `small`: a matrix that fits the cache.
//!
//! `prefill`: many tokens, in products of a weight and an activation.
//!
//! `pack`: packing integers into cells.

#[path = "support/random.rs"]
mod random;

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use impasto_kernels::Pool;
use impasto_kernels::packed::{Activations, ColumnOrder, Kernel, PackedMatrix, RowGroup, Scratch};
use random::Rng;

/// Distribution of the integers in a benchmark.
#[derive(Clone, Copy)]
enum Integers {
    /// All values of a width, uniformly.
    Width(u32),
    /// Normal, with the given average number of bits; the scales of rows and columns vary by two octaves each.
    Mixed(f64),
}

const BAND: usize = 256;

fn matrix(rows: usize, columns: usize, integers: Integers) -> PackedMatrix {
    let mut rng = Rng(rows as u64);
    let order = |rng: &mut Rng, n: usize| (0..n).map(|_| (rng.next() % 33) as i32).collect::<Vec<_>>();
    let (row_widths, column_widths) = (order(&mut rng, rows), order(&mut rng, columns));
    let columns_order = ColumnOrder::new(&vec![0.01; columns], &column_widths).expect("columns");
    let groups = row_widths.chunks(BAND).map(|row_widths| {
        let mut z = Vec::with_capacity(row_widths.len() * columns);
        for &row in row_widths {
            z.extend(column_widths.iter().map(|&column| match integers {
                Integers::Width(width) => (rng.next() >> (64 - width)) as i32 - (1 << (width - 1)),
                // The entropy of a normal variable of standard deviation s is log2(s) + 2.05 bits.
                Integers::Mixed(bits) => {
                    let scale = (f64::from(row + column) / 16.0 - 2.0 + bits - 2.05).exp2();
                    (rng.normal() * scale).round_ties_even() as i32
                }
            }));
        }
        RowGroup::pack(&z, &columns_order, &vec![0.01; row_widths.len()], row_widths, 0).expect("small integers")
    });
    let groups = groups.collect();
    PackedMatrix::new(columns_order, groups).expect("one order of columns")
}

fn activations(len: usize) -> Vec<f32> {
    let mut rng = Rng(1);
    (0..len).map(|_| rng.normal() as f32).collect()
}

/// Reads words and does almost nothing with them.
fn read(words: &[u64], pool: &Pool) {
    const PART: usize = 1 << 13;
    pool.run(words.len().div_ceil(PART), &|_, i| {
        let part = &words[i * PART..words.len().min((i + 1) * PART)];
        let mut sums = [0u64; 32];
        for words in part.as_chunks::<32>().0 {
            sums.iter_mut().zip(words).for_each(|(sum, word)| *sum |= word);
        }
        black_box(sums);
    });
}

fn product(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    matrix: &PackedMatrix,
    (kernel, how): (Kernel, Activations),
    tokens: usize,
    pool: &Pool,
) {
    let x = activations(tokens * matrix.inputs());
    let mut out = vec![0.0; tokens * matrix.outputs()];
    let mut scratch = Scratch::new();
    let stride = matrix.outputs();
    group.bench_function(format!("{name}/{kernel}/{how:?}"), |b| {
        b.iter(|| matrix.multiply(kernel, how, black_box(&x), tokens, &mut out, stride, &mut scratch, pool));
    });
}

fn decode(c: &mut Criterion) {
    let pool = Pool::new(0).expect("threads");
    let widths = (2..=8).map(|w| (format!("w{w}"), Integers::Width(w)));
    let mixed = [2.2, 3.2, 4.2].map(|bits| (format!("{bits}-bits"), Integers::Mixed(bits)));
    for (size, rows, columns) in [("decode", 16384, 8192), ("small", 1536, 576)] {
        let mut group = c.benchmark_group(size);
        group.sample_size(10).measurement_time(std::time::Duration::from_secs(1));
        group.warm_up_time(std::time::Duration::from_millis(500));
        for (name, integers) in widths.clone().chain(mixed.clone()) {
            let matrix = matrix(rows, columns, integers);
            let report = matrix.report();
            if matches!(integers, Integers::Mixed(_)) {
                eprintln!(
                    "{name}: mean width {:.2}, {:.2}% outliers, {:.2} bits in all",
                    report.mean_width(),
                    100.0 * report.outliers as f64 / report.weights as f64,
                    8.0 * report.bytes as f64 / report.weights as f64
                );
            }
            let (bytes, elements) = (report.bytes as u64, report.weights as u64);
            group.throughput(Throughput::ElementsAndBytes { elements, bytes });
            let words = vec![1u64; report.bytes / 8];
            group.bench_function(format!("{name}/read"), |b| b.iter(|| read(black_box(&words), &pool)));
            for kernel in Kernel::available() {
                product(&mut group, &name, &matrix, (kernel, Activations::Int8), 1, &pool);
            }
            product(&mut group, &name, &matrix, (Kernel::best(), Activations::F32), 1, &pool);
        }
    }
}

fn prefill(c: &mut Criterion) {
    let pool = Pool::new(0).expect("threads");
    let matrix = matrix(2048, 2048, Integers::Mixed(3.2));
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10).measurement_time(std::time::Duration::from_secs(1));
    group.warm_up_time(std::time::Duration::from_millis(500));
    for tokens in [1, 2, 4, 6, 8, 16, 128, 512] {
        group.throughput(Throughput::Elements((tokens * matrix.report().weights) as u64));
        for kernel in Kernel::available() {
            for how in [Activations::Int8, Activations::F32] {
                product(&mut group, &format!("T{tokens}"), &matrix, (kernel, how), tokens, &pool);
            }
        }
    }
}

fn pack(c: &mut Criterion) {
    let (rows, columns) = (64, 2048);
    let mut rng = Rng(1);
    let z: Vec<i32> = (0..rows * columns).map(|_| (rng.normal() * 3.0) as i32).collect();
    let widths: Vec<i32> = (0..columns).map(|_| (rng.next() % 9) as i32).collect();
    let order = ColumnOrder::new(&vec![1.0; columns], &widths).expect("columns");
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Elements((rows * columns) as u64));
    group.bench_function("group", |b| b.iter(|| RowGroup::pack(black_box(&z), &order, &[1.0; 64], &[0; 64], 0)));
}

criterion_group!(benches, decode, prefill, pack);
criterion_main!(benches);
