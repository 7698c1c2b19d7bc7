//! Exchanging the weights of linear layers between tokens.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Folder, Table};
use impasto_model::{CausalLm, ModelError};
use impasto_runtime::{Model, Residence, RunOptions, Runtime};

const LAYERS: [&str; 2] = ["model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight"];
const TOKENS: [u32; 12] = [1, 9, 4, 30, 22, 17, 5, 2, 40, 8, 3, 11];

fn table() -> Table {
    Folder::golden("random-untied").table()
}

/// The same model with other weights in two layers.
fn other() -> Table {
    let mut table = table();
    for name in LAYERS {
        table.tensors.get_mut(name).unwrap().1.iter_mut().for_each(|weight| *weight *= -0.5);
    }
    table
}

fn load(table: &Table) -> Model {
    let options = RunOptions { residence: Residence::Packed, threads: 2, ..RunOptions::default() };
    Model::load(table, &options).unwrap()
}

fn exchange(runtime: &Runtime, from: &Table) {
    let replacements: Vec<_> = LAYERS.iter().map(|name| runtime.prepare(from, name).unwrap()).collect();
    runtime.exchange(replacements).unwrap();
}

fn logits(network: &dyn CausalLm) -> Vec<f32> {
    let (mut cache, mut logits) = (network.new_cache(0).unwrap(), Vec::new());
    network.next_logits(&mut cache, &TOKENS, &mut logits).unwrap();
    logits
}

#[test]
fn the_next_token_is_that_of_a_model_loaded_so() {
    let (model, target) = (load(&table()), load(&other()));
    let (before, expected) = (logits(model.network()), logits(target.network()));
    assert!(before != expected);
    let mut session = model.session(Default::default()).unwrap();
    session.extend(&TOKENS).unwrap();
    let old = session.logits().unwrap().to_vec();
    let bytes = model.memory_bytes();
    exchange(model.runtime().unwrap(), &other());
    assert_eq!(model.memory_bytes(), bytes);
    assert!(logits(model.network()) == expected);
    // A running sequence keeps its keys and values; a restarted one gets the results of the other model.
    assert!(session.logits().unwrap() == old, "computed logits are kept");
    session.step().unwrap();
    session.step().unwrap();
    session.truncate(0);
    session.extend(&TOKENS).unwrap();
    assert!(session.logits().unwrap() == expected);
    exchange(model.runtime().unwrap(), &table());
    assert!(logits(model.network()) == before);
}

#[test]
fn passes_see_one_set_of_weights() {
    let model = load(&table());
    let runtime = model.runtime().unwrap();
    let sets = [logits(model.network()), logits(load(&other()).network())];
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let passes: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = [0; 2];
                    while !over.load(Ordering::Relaxed) {
                        let logits = logits(runtime);
                        let which = sets.iter().position(|set| *set == logits);
                        seen[which.expect("the logits of one of the two models")] += 1;
                    }
                    seen
                })
            })
            .collect();
        for _ in 0..60 {
            exchange(runtime, &other());
            exchange(runtime, &table());
        }
        over.store(true, Ordering::Relaxed);
        for pass in passes {
            println!("passes with the first and with the second weights: {:?}", pass.join().unwrap());
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_changes() {
    let model = load(&table());
    let runtime = model.runtime().unwrap();
    let before = logits(model.network());
    assert!(runtime.linear_names().iter().any(|name| name == LAYERS[0]));
    let none = runtime.prepare(&table(), "no.such.layer").err();
    assert!(matches!(none, Some(ModelError::NoLinear { .. })));
    let mut bad = other();
    bad.tensors.get_mut(LAYERS[1]).unwrap().0[0] += 1;
    assert!(matches!(runtime.prepare(&bad, LAYERS[1]).err(), Some(ModelError::Shape { .. })));
    bad.tensors.remove(LAYERS[1]);
    assert!(matches!(runtime.prepare(&bad, LAYERS[1]).err(), Some(ModelError::MissingTensor { .. })));
    // From a model with other shapes: all or nothing.
    let tiny = Model::load(&Folder::tiny(), &RunOptions::default()).unwrap();
    let foreign = tiny.runtime().unwrap().prepare(&Folder::tiny(), LAYERS[1]).unwrap();
    assert_eq!(foreign.name(), LAYERS[1]);
    let good = runtime.prepare(&other(), LAYERS[0]).unwrap();
    assert!(matches!(runtime.exchange([good, foreign]), Err(ModelError::Shape { .. })));
    assert!(logits(model.network()) == before);
    let limit = model.memory_bytes() as u64 + 10;
    let tight = Model::load(&table(), &RunOptions { memory_limit: Some(limit), ..RunOptions::default() }).unwrap();
    let refused = tight.runtime().unwrap().prepare(&other(), LAYERS[0]).err();
    assert!(matches!(refused, Some(ModelError::MemoryLimit { .. })));
}
