//! Generating a token allocates nothing but pages of keys and values.

#[path = "../../impasto-core/tests/support/heap.rs"]
mod heap;
#[allow(dead_code)] // Other tests use the rest.
#[path = "it/support/mod.rs"]
mod support;

use heap::allocations;
use impasto::FileWeights;
use impasto::encode::Target;
use impasto_kernels::kv::PAGE;
use impasto_model::Session;
use impasto_model::sampling::SamplingParams;
use impasto_runtime::{Model, RunOptions};
use support::{encode_to, open, tiny};

#[test]
fn tokens_allocate_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    encode_to(&tiny(), &path, Target::BitsPerWeight(5.0), 0).expect("encodes");
    let options = RunOptions { threads: 2, ..RunOptions::default() };
    let model = Model::load(&FileWeights::new(open(&path)).expect("assets"), &options).expect("a model");
    let net = model.network();
    let mut session = Session::with_capacity(net, SamplingParams::default(), 2 * PAGE).expect("a session");
    session.extend(&[1]).expect("a token");
    let mut run = |from: usize| {
        session.truncate(from);
        let before = allocations();
        while session.tokens().len() < 2 * PAGE {
            session.step().expect("runs");
        }
        allocations() - before
    };
    // The first tokens allocate the memory that is kept; each worker does so with its first task, which may come at any
    // time.
    run(1);
    // Truncating a sequence makes its last token run again; the second page stays.
    let taken: Vec<usize> = (0..3).map(|_| run(PAGE + 2)).collect();
    assert!(taken.contains(&0), "{taken:?}");
}
