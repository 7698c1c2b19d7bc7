//! A file without layers: codes plans to units, and writes these in order.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use impasto_codec::{Body, LowRank, TensorHeader};
use impasto_container::{Writer, measure};
use impasto_core::Mode;

use crate::code::{code_tensor, segments};
use crate::decoded::{self, References};
use crate::error::{EncodeError, heard};
use crate::lattice::{Grid, Integers, Rows};
use crate::layout::layout;
use crate::low_rank::of_error;
use crate::options::Progress;
use crate::plan::{Coding, Plan};
use crate::planner::Planner;
use crate::report::{Coded, TensorReport};

/// Codes everything into a file, which gets its name when the result finishes.
///
/// # Errors
/// If coding or writing fails.
pub fn write<'a>(planner: &'a Planner, path: &Path, plans: &[Option<Plan>]) -> Result<Coded<'a>, EncodeError> {
    let Planner { inputs, assets, options, .. } = planner;
    let (objects, slots) = layout(assets, &inputs.tensors, plans);
    let mut lengths = Vec::with_capacity(slots.len());
    let mut writer = Writer::create_over(path, inputs.base().cloned(), objects.clone(), slots, vec![])?;
    let mut push = |mode: Mode, bytes: &[u8]| {
        lengths.push(bytes.len() as u32);
        writer.push(mode, bytes)
    };
    for (mode, bytes) in assets.iter().flat_map(|asset| &asset.pieces) {
        push(*mode, bytes)?;
    }
    let kept: HashSet<usize> = plans.iter().flatten().filter_map(|plan| plan.reference).collect();
    let mut references = (!kept.is_empty()).then(|| References::beside(path)).transpose()?;
    let mut reports = Vec::new();
    for (i, (tensor, plan)) in inputs.tensors.iter().zip(plans).enumerate() {
        heard((planner.watch)(Progress::Coding(&tensor.name, i, plans.len())))?;
        let mut rank = 0;
        let mut zeros = None;
        let (mode, bytes) = match plan {
            None => (None, 0),
            Some(plan) => {
                let lattice = integers(planner, i, plan)?;
                let header = match &plan.coding {
                    Coding::Delta(header) => Some(header),
                    _ => lattice.as_ref().map(|(_, header)| header),
                };
                rank = header.and_then(TensorHeader::low_rank).map_or(0, LowRank::rank);
                zeros = lattice.as_ref().filter(|_| inputs.pruning(i).is_some()).map(|(integers, _)| integers.zeros());
                let matrix = inputs.matrix(i);
                let reference = plan.reference.zip(references.as_mut());
                let reference = reference.map_or(Ok(None), |(tensor, references)| references.elements(tensor))?;
                let keeps = kept.contains(&i);
                let mut units = Vec::new();
                let mut push = |mode: Mode, bytes: &[u8]| {
                    if keeps {
                        units.push((mode, bytes.to_vec()));
                    }
                    push(mode, bytes)
                };
                let (name, lattice) = (&tensor.name, lattice.as_ref());
                // A tensor has at most one of them.
                let reference = reference.as_deref().or(tensor.over_elements());
                let coded = code_tensor(name, &matrix, plan, lattice, reference, options, &mut push)?;
                if let Some(references) = references.as_mut().filter(|_| keeps) {
                    let broken = |error| EncodeError::Codec { tensor: name.clone(), error };
                    references.push(i, &decoded::elements(matrix.dtype, &plan.tiles, &units).map_err(broken)?)?;
                }
                (Some(coded.0), coded.1)
            }
        };
        inputs.release(i);
        let report = TensorReport::new(tensor, mode, bytes);
        let base = tensor.usage(plan.as_ref());
        reports.push(TensorReport { format: inputs.format(i), rank, zeros, base, ..report });
    }
    let length =
        measure(&objects, &lengths, &[], inputs.base()).map_err(|rule| EncodeError::Layout(rule.to_string()))?;
    Ok(Coded { length, ..Coded::new(inputs, assets, writer, reports) })
}

/// Returns the integers of a tensor on the lattice, and their tensor header.
fn integers(planner: &Planner, tensor: usize, plan: &Plan) -> Result<Option<(Integers, TensorHeader)>, EncodeError> {
    let Some(lossy) = planner.inputs.lossy(tensor)? else { return Ok(None) };
    let (integers, body) = match &plan.coding {
        Coding::Lattice(grid) | Coding::Transform(grid) => {
            let segments = segments(&plan.tiles, grid.trellis.is_some(), planner.options);
            let integers = lossy.round_tiles(grid, &plan.tiles, segments);
            let rank = planner.inputs.residual_rank(tensor);
            let residual = rank.and_then(|rank| of_error(&lossy.matrix, &integers, grid, &lossy.feedback, rank));
            let grid = Grid { low_rank: residual.map(Arc::new).or(grid.low_rank.clone()), ..grid.clone() };
            (integers, grid.body())
        }
        Coding::Format(format) => {
            let groups = lossy.groups(*format);
            (lossy.round_to_format(&groups, Rows::All), Body::Format(groups))
        }
        Coding::Bytes | Coding::Float(_) | Coding::Delta(_) | Coding::Jpeg(..) => return Ok(None),
    };
    let (header, _) = integers.header(&body, lossy.costs);
    Ok(Some((integers, header)))
}
