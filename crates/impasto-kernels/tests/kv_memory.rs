//! A token allocates nothing if the store has room for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use impasto_core::Isa;
use impasto_kernels::Pool;
use impasto_kernels::kv::{AttentionShape, KvFormat, KvStore, Pages, Scratch, attend};

/// The system allocator, with a count of the calls.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are forwarded to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_token_allocates_nothing() {
    let pool = Pool::new(2).unwrap();
    let how = AttentionShape { query: 4, kv: 2, dim: 64, scale: 0.125, softcap: None, window: None };
    let (row, q) = (vec![0.5; 2 * 64], vec![0.25; 4 * 64]);
    for format in KvFormat::ALL {
        let (mut scratch, mut out) = (Scratch::new(), vec![0.0; q.len()]);
        let mut store = KvStore::new(Pages::new(1 << 24), 1, 2, 64, &format.into()).unwrap();
        store.reserve(640).unwrap();
        let mut pass = |store: &mut KvStore| {
            store.reserve(1).unwrap();
            store.append(0, &row, &row);
            attend(Isa::best(), store, 0, &q, &how, &mut out, &mut scratch, &pool).unwrap();
            store.advance(1);
        };
        // The first passes grow the working memory, and finally split the context into parts.
        (0..600).for_each(|_| pass(&mut store));
        let before = CALLS.load(Ordering::Relaxed);
        (0..40).for_each(|_| pass(&mut store));
        assert_eq!(CALLS.load(Ordering::Relaxed), before, "{format}");
        pass(&mut store);
        assert!(CALLS.load(Ordering::Relaxed) > before, "a page is counted");
        assert!(out.iter().all(|x| (x - 0.5).abs() < 0.01), "{format} {out:?}");
    }
}
