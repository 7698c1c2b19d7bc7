//! The objects of the file and the slots of its units, known before any unit is coded.

use impasto_container::{Object, ObjectKind, Opaque, TensorMeta, UnitSlot};

use crate::code::{CodedAsset, PIECE};
use crate::model::Tensor;
use crate::plan::{Coding, Plan};

/// Returns objects and unit slots: assets with their pieces, then tensors, each with its tensor header and tiles. Tied
/// tensors have no units.
pub fn layout(assets: &[CodedAsset], tensors: &[Tensor], plans: &[Option<Plan>]) -> (Vec<Object>, Vec<UnitSlot>) {
    layout_of(&(0..tensors.len()).collect::<Vec<_>>(), assets, tensors, plans)
}

/// Returns the same for a file of the tensors `of`, in ascending order, among them those that they are tied to or predicted from.
pub fn layout_of(
    of: &[usize],
    assets: &[CodedAsset],
    tensors: &[Tensor],
    plans: &[Option<Plan>],
) -> (Vec<Object>, Vec<UnitSlot>) {
    let object_of = |tensor: usize| of.binary_search(&tensor).ok().map(|place| (assets.len() + place) as u32);
    let mut objects = Vec::with_capacity(assets.len() + of.len());
    let mut slots = Vec::new();
    for asset in assets {
        let object = objects.len() as u32;
        slots.extend((0..asset.pieces.len() as u32).map(|tile| UnitSlot { object, tile, layer: 0, is_header: false }));
        let kind = ObjectKind::Asset { length: asset.length, piece: PIECE, base: asset.base.clone() };
        objects.push(Object { name: asset.name.clone(), kind });
    }
    for (i, (tensor, plan)) in of.iter().map(|&i| (i, (&tensors[i], &plans[i]))) {
        let object = objects.len() as u32;
        // A tied tensor is the same matrix, so it has the same tiles.
        let original = tensor.same_as.map_or(plan, |i| &plans[i]).as_ref();
        let (tile_rows, tile_cols) = match original {
            Some(plan) => (plan.tiles.tile_rows(), plan.tiles.tile_cols()),
            None => tensors[tensor.same_as.unwrap_or(i)].over.map_or((1, 32), |over| over.of_base.tiles),
        };
        let over = tensor.over.filter(|_| tensor.usage(plan.as_ref()).is_some());
        let meta = TensorMeta {
            dtype: tensor.dtype,
            opaque: tensor.info.type_name.clone().map(|name| Opaque { name, bytes: tensor.info.byte_len() }),
            dims: tensor.info.shape.clone(),
            split: tensor.split,
            tile_rows,
            tile_cols,
            tied: tensor.same_as.and_then(object_of),
            reference: plan.as_ref().and_then(|plan| plan.reference).and_then(object_of),
            base: over.map(|over| over.of_base.link.clone()),
        };
        if let Some(plan) = plan {
            if !matches!(plan.coding, Coding::Bytes) {
                slots.push(UnitSlot { object, tile: 0, layer: 0, is_header: true });
            }
            slots.extend((0..plan.tiles.tile_count()).map(|tile| UnitSlot {
                object,
                tile,
                layer: 0,
                is_header: false,
            }));
        }
        objects.push(Object { name: tensor.name.clone(), kind: ObjectKind::Tensor(meta) });
    }
    (objects, slots)
}
