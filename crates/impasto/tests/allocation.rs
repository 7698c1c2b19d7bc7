//! Generating a token allocates nothing but pages of keys and values.

#[allow(dead_code)] // Other tests use the rest.
#[path = "it/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use impasto::FileWeights;
use impasto::encode::Target;
use impasto_kernels::kv::PAGE;
use impasto_model::Session;
use impasto_model::sampling::SamplingParams;
use impasto_runtime::{Model, RunOptions};
use support::{encode_to, open, tiny};

/// Counts allocations of all threads by the system allocator.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is forwarded unchanged to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `alloc`, which is that of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`, and `System` allocated the pointer in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
        let before = COUNT.load(Ordering::Relaxed);
        while session.tokens().len() < 2 * PAGE {
            session.step().expect("runs");
        }
        COUNT.load(Ordering::Relaxed) - before
    };
    // The first tokens allocate the memory that is kept; each worker does so with its first task, which may come at any
    // time.
    run(1);
    // Truncating a sequence makes its last token run again; the second page stays.
    let taken: Vec<usize> = (0..3).map(|_| run(PAGE + 2)).collect();
    assert!(taken.contains(&0), "{taken:?}");
}
