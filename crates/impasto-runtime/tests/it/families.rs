//! Tiny models of every family against transformers, run by the fast network from matrices in memory, with keys and
//! values in binary32.

use crate::support::Family;
use crate::support::transformers::{TOLERANCE, error_of, one_token_at_a_time};
use impasto_runtime::{KvFormat, KvLayout, Model, RunOptions};

fn load(family: &Family, threads: usize) -> Model {
    let kv = KvLayout::uniform(KvFormat::F32);
    let model = Model::load(&family.table, &RunOptions { threads, kv, ..RunOptions::default() }).unwrap();
    assert!(model.runtime().is_some());
    model
}

#[test]
fn equal_transformers() {
    for family in Family::all() {
        for threads in [1, 2] {
            let worst = error_of(&family, load(&family, threads).network());
            println!("{}, {threads} threads: largest error {worst:.1e}", family.name);
            assert!(worst < TOLERANCE, "{}: {worst:.1e}", family.name);
        }
    }
}

#[test]
fn tokens_one_at_a_time() {
    for family in Family::all() {
        let model = load(&family, 2);
        one_token_at_a_time(&family, model.network(), model.config());
    }
}
