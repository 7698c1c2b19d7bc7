//! Attention over paged keys and values: one token at several context lengths, and a prompt.
//!
//! `IMPASTO_CPU` selects the instruction set, `IMPASTO_THREADS` the number of threads (default: all). Figures are for
//! one transformer block. A token passes through many blocks, so that a long context is read from memory, not from a
//! cache.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use impasto_core::Isa;
use impasto_kernels::Pool;
use impasto_kernels::kv::{AttentionShape, KvFormat, KvStore, Pages, Scratch, attend};

/// Query heads, key heads, width of a head, and number of blocks of the model.
const SHAPES: [(usize, usize, usize, usize); 3] = [(9, 3, 64, 30), (32, 4, 64, 22), (32, 8, 128, 8)];

fn shape(query: usize, kv: usize, dim: usize) -> AttentionShape {
    AttentionShape { query, kv, dim, scale: 1.0 / (dim as f32).sqrt(), softcap: None, window: None }
}

/// Returns pseudorandom numbers between -1 and 1.
fn numbers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Creates a sequence of `tokens` tokens, of which the last `new` are not advanced over.
fn sequence(how: &AttentionShape, blocks: usize, format: KvFormat, tokens: usize, new: usize) -> KvStore {
    let mut store = KvStore::new(Pages::new(usize::MAX), blocks, how.kv, how.dim, &format.into()).expect("a shape");
    store.reserve(tokens).expect("memory");
    let width = how.kv * how.dim;
    let rows = numbers(tokens * width);
    let (before, last) = rows.split_at((tokens - new) * width);
    (0..blocks).for_each(|block| store.append(block, before, before));
    store.advance(tokens - new);
    (0..blocks).for_each(|block| store.append(block, last, last));
    store
}

fn pool() -> Pool {
    let threads = std::env::var("IMPASTO_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    Pool::new(threads).expect("threads")
}

fn token(c: &mut Criterion) {
    let (pool, mut scratch) = (pool(), Scratch::new());
    for (query, kv, dim, blocks) in SHAPES {
        let how = shape(query, kv, dim);
        let mut group = c.benchmark_group(format!("token {query}/{kv}/{dim}"));
        group.sample_size(20);
        let q = numbers(query * dim);
        let mut out = vec![0.0; q.len()];
        for context in [512, 4096] {
            for format in KvFormat::ALL {
                let store = sequence(&how, blocks, format, context, 1);
                group.throughput(Throughput::Bytes((store.memory_bytes() / blocks) as u64));
                group.bench_function(BenchmarkId::new(format.to_string(), context), |b| {
                    let mut block = 0;
                    b.iter(|| {
                        attend(Isa::best(), &store, block, &q, &how, &mut out, &mut scratch, &pool).unwrap();
                        block = (block + 1) % blocks;
                    });
                });
            }
        }
    }
}

fn prompt(c: &mut Criterion) {
    const TOKENS: usize = 512;
    let (pool, mut scratch) = (pool(), Scratch::new());
    for (query, kv, dim, _) in SHAPES {
        let how = shape(query, kv, dim);
        let mut group = c.benchmark_group(format!("prompt of {TOKENS}, {query}/{kv}/{dim}"));
        group.sample_size(20);
        // Multiplications that causal attention requires.
        group.throughput(Throughput::Elements((TOKENS * (TOKENS + 1) * query * dim) as u64));
        let q = numbers(TOKENS * query * dim);
        let mut out = vec![0.0; q.len()];
        for format in KvFormat::ALL {
            let store = sequence(&how, 1, format, TOKENS, TOKENS);
            group.bench_function(format.to_string(), |b| {
                b.iter(|| attend(Isa::best(), &store, 0, &q, &how, &mut out, &mut scratch, &pool));
            });
        }
    }
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append 512 tokens, 3/64");
    group.sample_size(20);
    let rows = numbers(512 * 3 * 64);
    group.throughput(Throughput::Elements(2 * rows.len() as u64));
    for format in KvFormat::ALL {
        let mut store = sequence(&shape(9, 3, 64), 1, format, 512, 512);
        group.bench_function(format.to_string(), |b| b.iter(|| store.append(0, &rows, &rows)));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(700));
    targets = token, prompt, append
}
criterion_main!(benches);
