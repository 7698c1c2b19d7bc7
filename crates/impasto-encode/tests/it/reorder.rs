//! Reordered models of every family against transformers, and what cannot be reordered.

use crate::support::transformers::{TOLERANCE, error_of};
use crate::support::{Family, Table, decoder};
use impasto_encode::EncodeError;
use impasto_encode::reorder::{ReorderBy, Reordering, TensorOrder};

const BY_WEIGHTS: [ReorderBy; 4] = [ReorderBy::Sum, ReorderBy::Norm, ReorderBy::Spectral, ReorderBy::Chain];

fn reordering(table: &Table, by: ReorderBy) -> Result<Reordering, EncodeError> {
    Reordering::new(table, by, None, None)
}

fn is_permutation(order: &[u32]) -> bool {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    sorted.iter().copied().eq(0..order.len() as u32)
}

/// Moves the rows and columns of a tensor with this shape.
fn moved(values: &[f32], shape: &[u64], order: &TensorOrder) -> Vec<f32> {
    let columns = shape.last().map_or(1, |&n| n as usize);
    let at = |order: &Option<Vec<u32>>, i: usize| order.as_ref().map_or(i, |order| order[i] as usize);
    (0..values.len())
        .map(|i| values[at(&order.rows, i / columns) * columns + at(&order.columns, i % columns)])
        .collect()
}

/// Applies a reordering to the tensors of a table.
fn reordered(table: &Table, reordering: &Reordering) -> Table {
    let mut table = table.clone();
    for (name, order) in reordering.tensors() {
        assert!(order.rows.iter().chain(&order.columns).all(|order| is_permutation(order)), "{name}");
        let (shape, values) = table.tensors.get_mut(name).expect("a tensor");
        *values = moved(values, shape, order);
    }
    table
}

/// The network of every family computes the same after its hidden units and heads changed places: with fused layers,
/// biases, norms of heads, soft caps and sliding windows, and with any number of heads per group.
#[test]
fn reordered_models_equal_transformers() {
    let families = Family::all();
    assert_eq!(families.len(), 11);
    for family in families {
        for by in BY_WEIGHTS {
            let found = reordering(&family.table, by).expect("an order");
            let table = reordered(&family.table, &found);
            let (net, report) = (decoder(&table, 1).expect("a model"), found.report());
            let blocks = net.config().blocks.len();
            println!("{} by {}: {report:?}", family.name, by.name());
            assert_eq!((report.mlps, report.by), (blocks, by), "{}: all MLPs", family.name);
            assert!(report.tensors == found.tensors().count() && report.attentions <= blocks);
            let error = error_of(&family, &net);
            assert!(error < TOLERANCE, "{} by {}: {error:.1e}", family.name, by.name());
        }
    }
}

/// Orders are what they are called, and follow the units when these change places.
#[test]
fn units_are_in_the_order_of_their_weights() {
    let family = Family::open("qwen2");
    let (by_norm, name) = (reordering(&family.table, ReorderBy::Norm).expect("an order"), "model.layers.0.mlp.");
    let gate = by_norm.tensor_order(&format!("{name}gate_proj.weight")).expect("it moves");
    let down = by_norm.tensor_order(&format!("{name}down_proj.weight")).expect("it moves");
    assert!(gate.rows.is_some() && gate.rows == down.columns && gate.columns.is_none() && down.rows.is_none());
    let query = by_norm.tensor_order("model.layers.0.self_attn.q_proj.weight");
    let bias = by_norm.tensor_order("model.layers.0.self_attn.q_proj.bias");
    assert_eq!(query.map(|order| &order.rows), bias.map(|order| &order.columns), "biases move with their rows");
    // What is sorted stays; a chain depends on where it begins.
    for by in [ReorderBy::Sum, ReorderBy::Norm] {
        let first = reordering(&family.table, by).expect("an order");
        let again = reordering(&reordered(&family.table, &first), by).expect("an order").report();
        assert!(first.report().tensors > 0 && again.mlps + again.attentions + again.tensors == 0, "{again:?}");
    }
}

#[test]
fn what_cannot_be_reordered_is_named() {
    let family = Family::open("llama3");
    let refused = |table: &Table, by| reordering(table, by).expect_err("refused").to_string();
    let said = refused(&family.table, ReorderBy::Activation);
    assert!(said.contains("needs calibration"), "{said}");
    let said = refused(&family.with_config(|config| config["model_type"] = "bert".into()), ReorderBy::Sum);
    assert!(said.contains("bert"), "{said}");
    let mut table = family.table.clone();
    table.assets.clear();
    let said = refused(&table, ReorderBy::Norm);
    assert!(said.contains("config.json") && said.contains("reordering"), "{said}");

    let name = "model.layers.1.mlp.down_proj.weight";
    let mut table = family.table.clone();
    table.tensors.remove(name);
    let said = refused(&table, ReorderBy::Sum);
    assert!(said.contains(name), "{said}");
    let mut table = family.table.clone();
    table.tensors.get_mut(name).expect("it").0.swap(0, 1);
    let said = refused(&table, ReorderBy::Sum);
    assert!(said.contains(name) && said.contains("shape"), "{said}");

    let limited = Reordering::new(&family.table, ReorderBy::Chain, None, Some(1000));
    assert!(matches!(limited, Err(EncodeError::TensorMemory { limit: 1000, .. })));
}
