//! Speed of products with weights that are stored as bfloat16, in products of a weight and an activation: one token, the few
//! of a draft, and a prompt.

#[path = "support/random.rs"]
mod random;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use impasto_core::Isa;
use impasto_kernels::dense::DenseMatrix;
use impasto_kernels::packed::Arena;
use impasto_kernels::{Pool, Workers};
use random::Rng;

fn products(c: &mut Criterion) {
    let mut rng = Rng(1);
    let arena = Arena::new();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let pool = Pool::new(threads).expect("threads");
    // The second is larger than the caches.
    for (outputs, inputs) in [(1536, 576), (49152, 576), (576, 1536)] {
        let bits = (0..outputs * inputs).map(|_| bf16::from_f32(rng.normal() as f32).to_bits()).collect();
        let matrix = DenseMatrix::of_bf16(bits, outputs, inputs).keep_in(&arena);
        for isa in Isa::available() {
            let workers = Workers::new(threads, isa);
            let mut group = c.benchmark_group(format!("{outputs} x {inputs}, {isa}"));
            for tokens in [1, 2, 5, 12, 64, 256] {
                let x: Vec<f32> = (0..tokens * inputs).map(|_| rng.normal() as f32).collect();
                let mut out = vec![0.0; tokens * outputs];
                group.throughput(Throughput::Elements((tokens * outputs * inputs) as u64));
                group.bench_function(BenchmarkId::from_parameter(tokens), |b| {
                    b.iter(|| matrix.multiply(&x, &mut out, outputs, &workers, &pool));
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(std::time::Duration::from_secs(2));
    targets = products
}
criterion_main!(benches);
