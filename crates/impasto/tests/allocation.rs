//! A token takes no memory but pages of keys and values.

#[allow(dead_code)] // Others use the rest.
#[path = "it/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use impasto::FileWeights;
use impasto::encode::Target;
use impasto_kernels::kv::PAGE;
use impasto_model::KvCache;
use impasto_runtime::{Model, RunOptions};
use support::{encode_to, open, tiny};

/// Counts what is asked of the system's allocator, by all threads.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it is the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as asked.
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
    let mut cache = net.new_cache(2 * PAGE).expect("a cache");
    let mut logits = Vec::new();
    let mut run = |cache: &mut KvCache| {
        let before = COUNT.load(Ordering::Relaxed);
        for token in cache.len() as u32..2 * PAGE as u32 {
            net.next_logits(cache, &[token], &mut logits).expect("runs");
        }
        COUNT.load(Ordering::Relaxed) - before
    };
    // The first tokens take the memory that stays; a worker does so with its first task, whenever it comes by one.
    run(&mut cache);
    let taken = (0..3).map(|_| {
        cache.truncate(PAGE + 1);
        run(&mut cache)
    });
    let taken: Vec<usize> = taken.collect();
    assert!(taken.contains(&0), "{taken:?}");
    assert_eq!(cache.len(), 2 * PAGE);
}
