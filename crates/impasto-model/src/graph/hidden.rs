//! Values that only one sublayer sees: the hidden units of an MLP, and the heads of attention. Their order is free.

use super::{LinearSpec, Op, Sublayer, Value, VectorSpec};

/// The units of a hidden value: the elements of a gated MLP's hidden layer, or the query heads of attention.
///
/// If the units change places, the network computes the same function (up to the rounding of sums), provided that the rows
/// of all [`makers`](Hidden::makers) and the columns of all [`takers`](Hidden::takers) change places with them. Units of
/// one group must stay together: they share a key/value head. Rotary positions and norms of heads act within a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Hidden<'a> {
    /// Whether the units are attention heads.
    pub is_attention: bool,
    /// Number of units; a multiple of `groups`.
    pub units: usize,
    /// Number of groups: key/value heads, or the units themselves.
    pub groups: usize,
    /// Elements of a unit.
    pub width: usize,
    /// The rows of linear layers that make the units.
    pub makers: Vec<Maker<'a>>,
    /// The linear layers whose columns are the units, `width` columns each, in order.
    pub takers: &'a [LinearSpec],
}

/// Rows of a linear layer that make units or what groups of them share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Maker<'a> {
    /// The layer. A fused layer is the maker of several values.
    pub layer: &'a LinearSpec,
    /// Its first row for this value.
    pub first: usize,
    /// Whether each group, rather than each unit, has the next `width` rows.
    pub is_shared: bool,
}

impl Sublayer {
    /// Returns the hidden value of the sublayer, if the order of its units is free; `None` if an operation sees it that
    /// depends on the order.
    pub fn hidden(&self) -> Option<Hidden<'_>> {
        self.ops.iter().find_map(|op| match op {
            Op::Gate { gate, up, y, .. } => {
                let makers = vec![self.maker(*gate, 1, false)?, self.maker(*up, 1, false)?];
                let (units, takers) = (y.width, self.takers(*y)?);
                Some(Hidden { is_attention: false, units, groups: units, width: 1, makers, takers })
            }
            Op::Attend { q, k, v, y, how } => {
                let maker = |value: &Value, is_shared| self.maker(*value, how.dim, is_shared);
                let makers = vec![maker(q, false)?, maker(k, true)?, maker(v, true)?];
                let takers = self.takers(*y)?;
                Some(Hidden { is_attention: true, units: how.query, groups: how.kv, width: how.dim, makers, takers })
            }
            _ => None,
        })
    }

    /// Returns the operation that alone reads a value.
    fn only_reader(&self, value: Value) -> Option<&Op<LinearSpec, VectorSpec>> {
        let mut readers = self.ops.iter().filter(|op| op.inputs().any(|x| x.id == value.id));
        readers.next().filter(|_| value.id != 0 && readers.next().is_none())
    }

    fn takers(&self, value: Value) -> Option<&[LinearSpec]> {
        match self.only_reader(value)? {
            Op::Linear { layers, .. } => Some(layers),
            _ => None,
        }
    }

    /// Follows a value back to the linear layer that makes it, through operations on units of `width` elements.
    fn maker(&self, mut value: Value, width: usize, is_shared: bool) -> Option<Maker<'_>> {
        let mut first = 0;
        loop {
            self.only_reader(value)?;
            let writes = |op: &&Op<LinearSpec, VectorSpec>| op.outputs().iter().any(|y| y.id == value.id);
            match self.ops.iter().find(writes)? {
                Op::Linear { layers, y, .. } => {
                    let layer = layers.get(y.iter().position(|y| y.id == value.id)?)?;
                    return Some(Maker { layer, first, is_shared });
                }
                Op::Split { x, y } => {
                    first += y.iter().take_while(|y| y.id != value.id).map(|y| y.width).sum::<usize>();
                    value = *x;
                }
                Op::Norm { x, weight, .. } if weight.width == width => value = *x,
                Op::Rotate { x, by, .. } if by.head == width => value = *x,
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attention, Rotation};
    use super::*;
    use crate::config::Activation;

    fn value(id: usize, width: usize) -> Value {
        Value { id, slot: 0, width }
    }

    fn layer(name: &str, outputs: usize, inputs: usize) -> LinearSpec {
        LinearSpec { name: format!("{name}.weight"), outputs, inputs, bias: false }
    }

    /// Attention with fused projections and norms of this width on the queries.
    fn attention(norm: usize) -> Sublayer {
        let (x, wide, raw, normed) = (value(0, 6), value(1, 16), value(2, 8), value(3, 8));
        let (q, k, v, y, out) = (value(4, 8), value(5, 4), value(6, 4), value(7, 8), value(8, 6));
        let weight = VectorSpec { name: "norm.weight".into(), width: norm, plus_one: false };
        let how = Attention { query: 4, kv: 2, dim: 2, scale: 1.0, softcap: None, window: None };
        Sublayer {
            ops: vec![
                Op::Linear { x, layers: vec![layer("qkv", 16, 6)], y: vec![wide] },
                Op::Split { x: wide, y: vec![raw, k, v] },
                Op::Norm { x: raw, y: normed, weight, eps: 0.0 },
                Op::Rotate { x: normed, y: q, by: Rotation { rope: 0, dim: 2, head: 2 } },
                Op::Attend { q, k, v, y, how },
                Op::Linear { x: y, layers: vec![layer("o", 6, 8)], y: vec![out] },
                Op::Add { x: out },
            ],
        }
    }

    #[test]
    fn heads_are_followed_through_norms_rotations_and_fused_layers() {
        let sublayer = attention(2);
        let hidden = sublayer.hidden().expect("heads");
        assert_eq!((hidden.units, hidden.groups, hidden.width), (4, 2, 2));
        let makers = hidden.makers.iter().map(|maker| (&*maker.layer.name, maker.first, maker.is_shared));
        let expected = [("qkv.weight", 0, false), ("qkv.weight", 8, true), ("qkv.weight", 12, true)];
        assert!(makers.eq(expected));
        assert_eq!(hidden.takers, [layer("o", 6, 8)]);
    }

    #[test]
    fn a_value_that_something_else_sees_has_no_free_order() {
        assert_eq!(attention(8).hidden(), None, "the norm of all heads together has a weight for each");
        let mut sublayer = attention(2);
        sublayer.ops.insert(5, Op::Add { x: value(7, 8) });
        assert_eq!(sublayer.hidden(), None, "the heads are also added to the stream");
        let gate = |gate| Op::Gate { gate, up: value(2, 4), y: value(3, 4), activation: Activation::Silu };
        let pair = Op::Linear {
            x: value(0, 6),
            layers: vec![layer("gate", 4, 6), layer("up", 4, 6)],
            y: vec![value(1, 4), value(2, 4)],
        };
        let down = Op::Linear { x: value(3, 4), layers: vec![layer("down", 6, 4)], y: vec![value(4, 6)] };
        let mlp = |first| Sublayer { ops: vec![pair.clone(), gate(first), down.clone()] };
        assert_eq!(mlp(value(1, 4)).hidden().map(|hidden| hidden.makers.len()), Some(2));
        assert_eq!(mlp(value(0, 4)).hidden(), None, "the stream itself gates");
    }
}
