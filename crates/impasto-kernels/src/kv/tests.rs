//! The store, and attention over it, compared with the definition.

use impasto_core::Isa;

use super::*;
use crate::Pool;
use impasto_core::rng::SplitMix64;

fn random(rng: &mut SplitMix64, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.next_f64() as f32 * 4.0 - 2.0).collect()
}

/// Returns approximately Gaussian numbers.
fn gaussian(rng: &mut SplitMix64, n: usize) -> Vec<f32> {
    (0..n).map(|_| (0..12).map(|_| rng.next_f64() as f32).sum::<f32>() - 6.0).collect()
}

/// Computes the definition in binary64, one head and one query at a time.
fn definition(q: &[f32], k: &[f32], v: &[f32], past: usize, h: &AttentionShape) -> Vec<f64> {
    let tokens = q.len() / (h.query * h.dim);
    let mut out = Vec::new();
    for t in 0..tokens {
        for head in 0..h.query {
            let kv = head * h.kv / h.query;
            let at = |m: &[f32], s: usize, d: usize| f64::from(m[(s * h.kv + kv) * h.dim + d]);
            let score = |s: usize| {
                let dot = |d| f64::from(q[(t * h.query + head) * h.dim + d]) * at(k, s, d);
                let score = (0..h.dim).map(dot).sum::<f64>() * f64::from(h.scale);
                h.softcap.map_or(score, |c| (score / f64::from(c)).tanh() * f64::from(c))
            };
            let first = h.window.map_or(0, |w| (past + t + 1).saturating_sub(w));
            let scores: Vec<f64> = (first..=past + t).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mix = |d| weights.iter().zip(first..).map(|(w, s)| w / sum * at(v, s, d)).sum::<f64>();
            out.extend((0..h.dim).map(mix));
        }
    }
    out
}

/// Creates a store of one block with `past` tokens, and appends the remaining tokens without advancing over them.
fn store(h: &AttentionShape, layout: &KvLayout, k: &[f32], v: &[f32], past: usize) -> KvStore {
    let width = h.kv * h.dim;
    let mut store = KvStore::new(Pages::new(usize::MAX), 1, h.kv, h.dim, layout).unwrap();
    store.reserve(k.len() / width).unwrap();
    let mut at = 0usize;
    // In uneven pieces that cross page boundaries.
    for piece in [1, 62, 2, 100, usize::MAX] {
        let end = past.min(at.max(at.saturating_add(piece)));
        store.append(0, &k[at * width..end * width], &v[at * width..end * width]);
        store.advance(end - at);
        at = end;
    }
    store.append(0, &k[past * width..], &v[past * width..]);
    store
}

/// Returns all keys and values as they are stored.
fn stored(store: &KvStore, tokens: usize, width: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut k, mut v) = (vec![0.0; tokens * width], vec![0.0; tokens * width]);
    for ((k, v), token) in k.chunks_exact_mut(width).zip(v.chunks_exact_mut(width)).zip(0..) {
        store.read(0, token, k, v);
    }
    (k, v)
}

#[test]
fn equals_the_definition() {
    let mut rng = SplitMix64::new(5);
    let shapes = [
        // tokens, past, query heads, key heads, dim
        (1, 0, 1, 1, 2),
        (70, 3, 4, 2, 6),
        (1, 80, 6, 2, 64),
        (33, 0, 3, 3, 33),
        (1, 1000, 9, 3, 64),
        (5, 600, 16, 1, 40),
        (1, 700, 60, 1, 32),
        (3, 130, 8, 1, 96),
        (130, 70, 2, 1, 128),
    ];
    let (one, three) = (Pool::new(1).unwrap(), Pool::new(3).unwrap());
    let mut scratch = Scratch::new();
    for (tokens, past, query, kv, dim) in shapes {
        for window in [None, Some(1), Some(33), Some(64), Some(300)] {
            for softcap in [None, Some(0.75)] {
                for layout in ["f32", "f16", "int8", "int4", "k=int4,v=f16", "k=f32,v=int8"] {
                    let layout: KvLayout = layout.parse().unwrap();
                    let how = AttentionShape { query, kv, dim, scale: 0.5, softcap, window };
                    let q = random(&mut rng, tokens * query * dim);
                    let k = random(&mut rng, (past + tokens) * kv * dim);
                    let v = random(&mut rng, (past + tokens) * kv * dim);
                    let store = store(&how, &layout, &k, &v, past);
                    let (k, v) = stored(&store, past + tokens, kv * dim);
                    let expected = definition(&q, &k, &v, past, &how);
                    let mut got = |isa, pool| {
                        let mut out = vec![f32::NAN; q.len()];
                        attend(isa, &store, 0, &q, &how, &mut out, &mut scratch, pool).unwrap();
                        out
                    };
                    let scalar = got(Isa::Scalar, &three);
                    for (g, e) in scalar.iter().zip(&expected) {
                        assert!((f64::from(*g) - e).abs() < 2e-5, "{g} {e} {how:?} {layout} {tokens} {past}");
                    }
                    for isa in Isa::available() {
                        assert_eq!(got(isa, &three), scalar, "{isa} {how:?} {layout}");
                    }
                    assert_eq!(got(Isa::highest(), &one), scalar);
                }
            }
        }
    }
}

/// In one call or in several, alone or beside others, with few threads or many: the same bits.
#[test]
fn a_token_gets_the_same_whatever_is_beside_it() {
    let mut rng = SplitMix64::new(6);
    let (one, three) = (Pool::new(1).unwrap(), Pool::new(3).unwrap());
    let mut scratch = Scratch::new();
    for (tokens, query, kv, dim) in [(1400, 4, 2, 32), (1100, 9, 1, 20)] {
        for window in [None, Some(100), Some(600)] {
            for layout in ["f16", "k=int8,v=int4"] {
                let layout: KvLayout = layout.parse().unwrap();
                let how = AttentionShape { query, kv, dim, scale: 0.5, softcap: None, window };
                let [q, k, v] = [query, kv, kv].map(|heads| random(&mut rng, tokens * heads * dim));
                let mut got = |range: std::ops::Range<usize>, pool| {
                    let of = |m: &[f32], heads: usize| m[..range.end * heads * dim].to_vec();
                    let store = store(&how, &layout, &of(&k, kv), &of(&v, kv), range.start);
                    let q = &q[range.start * query * dim..range.end * query * dim];
                    let mut out = vec![f32::NAN; q.len()];
                    attend(Isa::highest(), &store, 0, q, &how, &mut out, &mut scratch, pool).unwrap();
                    out
                };
                let whole = got(0..tokens, &three);
                for range in [0..1, 63..64, 255..257, 256..300, 300..812, 511..512, 700..701, 1023..1040, 1090..1091] {
                    for pool in [&one, &three] {
                        let part = got(range.clone(), pool);
                        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                        let of_whole = &whole[range.start * query * dim..range.end * query * dim];
                        assert_eq!(bits(&part), bits(of_whole), "{how:?} {range:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn formats_are_as_precise_as_they_say() {
    let mut rng = SplitMix64::new(9);
    for (format, least) in [(KvFormat::F32, 1e9), (KvFormat::F16, 70.0), (KvFormat::Int8, 40.0), (KvFormat::Int4, 20.0)]
    {
        for dim in [64, 80, 128] {
            let mut k = gaussian(&mut rng, 100 * dim);
            // An outlier channel, as in the keys of real models.
            k.iter_mut().step_by(dim).for_each(|x| *x *= if format == KvFormat::Int4 { 4.0 } else { 1.0 });
            let v = gaussian(&mut rng, 100 * dim);
            let how = AttentionShape { query: 1, kv: 1, dim, scale: 1.0, softcap: None, window: None };
            let store = store(&how, &format.into(), &k, &v, 100);
            let (sk, sv) = stored(&store, 100, dim);
            for (a, b) in [(&k, &sk), (&v, &sv)] {
                let error: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let power: f64 = a.iter().map(|a| f64::from(*a).powi(2)).sum();
                let db = 10.0 * (power / error).log10();
                println!("{format} {dim}: {db:.2} dB");
                assert!(db > least, "{format} {dim}: {db:.2} dB");
            }
        }
    }
}

#[test]
fn a_fork_shares_pages_until_it_writes() {
    let pages = Pages::new(usize::MAX);
    let mut a = KvStore::new(pages.clone(), 2, 1, 4, &KvLayout::default()).unwrap();
    let push = |store: &mut KvStore, x: f32, tokens: usize| {
        store.reserve(tokens).unwrap();
        (0..2).for_each(|block| store.append(block, &vec![x; 4 * tokens], &vec![-x; 4 * tokens]));
        store.advance(tokens);
    };
    let last = |store: &KvStore| {
        let (mut k, mut v) = ([0.0; 4], [0.0; 4]);
        store.read(1, store.len() - 1, &mut k, &mut v);
        assert_eq!(k, v.map(|v| -v));
        k[0]
    };
    push(&mut a, 1.0, 70);
    let two_pages = pages.used();
    assert_eq!(a.memory_bytes(), two_pages);
    let mut b = a.fork();
    assert_eq!(pages.used(), two_pages);
    push(&mut b, 2.0, 1);
    assert_eq!(pages.used(), two_pages / 2 * 3);
    push(&mut a, 3.0, 1);
    assert_eq!(pages.used(), two_pages / 2 * 3, "the other is gone: nothing is shared, nothing copied");
    assert_eq!((last(&a), last(&b), a.len(), b.len()), (3.0, 2.0, 71, 71));
    b.truncate(70);
    assert_eq!(last(&b), 1.0);
    b.truncate(64);
    assert_eq!(pages.used(), two_pages);
    // Room that was reserved before a fork: the sequence must not write to the page that it shares with the fork.
    a.reserve(1).unwrap();
    let c = a.fork();
    push(&mut a, 4.0, 1);
    assert_eq!((last(&c), last(&a)), (3.0, 4.0));
    drop((a, b, c));
    assert_eq!(pages.used(), 0);
}

#[test]
fn room_that_is_refused_leaves_what_was() {
    let pages = Pages::new(2 * 64 * (32 + 4) * 4 + 64);
    let mut store = KvStore::new(pages.clone(), 1, 1, 4, &KvFormat::F32.into()).unwrap();
    store.reserve(64).unwrap();
    store.append(0, &[1.0; 4], &[1.0; 4]);
    store.advance(1);
    let used = pages.used();
    store.reserve(64).unwrap();
    assert!(matches!(store.reserve(1000), Err(KvError::Limit { .. })));
    assert!(pages.used() >= used && pages.used() <= pages.limit());
    store.append(0, &[1.0; 4], &[1.0; 4]);
    store.advance(1);
    assert!(matches!(store.reserve(usize::MAX), Err(KvError::Memory { .. })));
    assert!(store.reserve(usize::MAX - 2).is_err());
    assert_eq!(store.len(), 2);
}

#[test]
fn impossible_shapes_are_errors() {
    let new = |heads, dim| KvStore::new(Pages::new(0), 1, heads, dim, &KvLayout::default()).err();
    assert_eq!(new(0, 4), Some(KvError::Shape { heads: 0, dim: 4 }));
    assert_eq!(new(usize::MAX, usize::MAX), Some(KvError::Shape { heads: usize::MAX, dim: usize::MAX }));
    assert!(new(1, usize::MAX).is_some() && new(4, 0).is_some());
    let layout = "1=f32".parse().unwrap();
    let error = KvStore::new(Pages::new(0), 1, 1, 4, &layout).err();
    assert_eq!(error, Some(KvError::Block { block: 1, blocks: 1 }));
}

#[test]
fn what_is_no_number_shows() {
    for format in KvFormat::ALL {
        for poison in [f32::NAN, f32::INFINITY] {
            let how = AttentionShape { query: 1, kv: 1, dim: 4, scale: 1.0, softcap: None, window: None };
            let (mut k, v) = (vec![1.0; 4 * 70], vec![1.0; 4 * 70]);
            k[4 * 66 + 1] = poison;
            let mut out = [0.0; 4];
            let store = store(&how, &format.into(), &k, &v, 69);
            for isa in Isa::available() {
                let (mut scratch, pool) = (Scratch::new(), Pool::new(1).unwrap());
                attend(isa, &store, 0, &[1.0; 4], &how, &mut out, &mut scratch, &pool).unwrap();
                assert!(out.iter().all(|x| x.is_nan()), "{format} {poison} {isa} {out:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "room for the tokens was reserved")]
fn appending_without_room_is_refused() {
    let mut store = KvStore::new(Pages::new(usize::MAX), 1, 1, 4, &KvLayout::default()).unwrap();
    store.append(0, &[0.0; 4], &[0.0; 4]);
}
