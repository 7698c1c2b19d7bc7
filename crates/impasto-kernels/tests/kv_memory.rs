//! A token allocates nothing if the store has room for it.

#[path = "../../impasto-core/tests/support/heap.rs"]
mod heap;

use heap::allocations;
use impasto_core::Isa;
use impasto_kernels::Pool;
use impasto_kernels::kv::{AttentionShape, KvFormat, KvStore, Pages, Scratch, attend};

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
        let before = allocations();
        (0..40).for_each(|_| pass(&mut store));
        assert_eq!(allocations(), before, "{format}");
        pass(&mut store);
        assert!(allocations() > before, "a page is counted");
        assert!(out.iter().all(|x| (x - 0.5).abs() < 0.01), "{format} {out:?}");
    }
}
