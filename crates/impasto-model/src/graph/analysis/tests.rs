use super::super::{Block, Op, describe};
use crate::config::DecoderConfig;

/// A block of the network of a configuration with these options.
fn block(options: &str) -> Block {
    let json = format!(
        r#"{{"hidden_size": 8, "intermediate_size": 20, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "num_hidden_layers": 2, "vocab_size": 10, {options}}}"#
    );
    describe(&DecoderConfig::from_json(json.as_bytes()).unwrap(), ("model.", "lm_head.weight")).blocks.remove(1)
}

const LLAMA: &str = r#""model_type": "llama""#;
const PHI3: &str = r#""model_type": "phi3""#;
const GEMMA3: &str = r#""model_type": "gemma3_text", "sliding_window": 4"#;

/// No operation overwrites a value that is still to be read, except in place.
#[test]
fn slots_hold_values_as_long_as_they_are_needed() {
    for options in [LLAMA, PHI3, GEMMA3] {
        for sublayer in block(options).sublayers {
            let ops = &sublayer.ops;
            let mut lies = vec![Some(0); 1];
            for (at, op) in ops.iter().enumerate() {
                for x in op.inputs() {
                    assert_eq!(lies[x.slot], Some(x.id), "{op:?} reads another value");
                }
                for y in op.outputs() {
                    assert_ne!(y.slot, 0, "slot 0 is reserved for the residual stream");
                    lies.resize(lies.len().max(y.slot + 1), None);
                    let lost = lies[y.slot].replace(y.id);
                    let later = ops[at + 1..].iter().flat_map(|op| op.inputs()).any(|x| Some(x.id) == lost);
                    assert!(!later, "{op:?} overwrites a value that is still to be read");
                }
                let outputs = op.outputs().iter().map(|y| y.slot);
                assert_eq!(outputs.clone().collect::<std::collections::BTreeSet<_>>().len(), outputs.len());
            }
            assert!(lies.len() <= 5, "{} slots", lies.len());
        }
    }
}

/// Neither the last product nor attention is needed, unless a norm follows it.
#[test]
fn gradients_need_no_more_than_this() {
    let needed = |options: &str| block(options).sublayers.iter().map(|s| s.needed_backward()).collect::<Vec<_>>();
    // Norm, q k v, two rotations | attention, output, sum.
    let llama = [vec![true, true, true, true, false, false, false], vec![true, true, false, false, false]];
    assert_eq!(needed(LLAMA), llama);
    // A fused projection and its split are both needed.
    assert_eq!(needed(PHI3)[1], [true, true, true, false, false, false]);
    // All but the last norm and the sum.
    for needed in needed(GEMMA3) {
        let (last, all) = needed.split_at(needed.len() - 2);
        assert!(last.iter().all(|x| *x) && all == [false, false]);
    }
}

#[test]
fn inputs_are_counted_through_the_network() {
    let block = block(LLAMA);
    assert_eq!((block.first_input, block.inputs(), block.layers().count()), (4, 4, 7));
    let mlp = &block.sublayers[1];
    assert_eq!(mlp.last_linear(), Some(3));
    let Op::Linear { x, layers, .. } = &mlp.ops[3] else { panic!("{mlp:?}") };
    assert_eq!((x.width, layers[0].name.as_str()), (20, "model.layers.1.mlp.down_proj.weight"));
}
