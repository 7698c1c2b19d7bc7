//! A file without layers: codes plans to units, and writes these in order.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use impasto_codec::{Body, LowRank, TensorHeader};
use impasto_container::{ContainerError, Writer};
use impasto_core::Mode;

use crate::arithmetic::exp2;
use crate::code::{code_tensor, segments};
use crate::decoded::{self, References};
use crate::error::{EncodeError, heard};
use crate::lattice::{Grid, Integers, Rows};
use crate::layout::layout;
use crate::low_rank::of_error;
use crate::options::Progress;
use crate::pace::Pace;
use crate::plan::{Coding, Plan};
use crate::planner::Planner;
use crate::report::{Coded, TensorReport};

/// How often the last tensor that depends on a step is coded, at most.
const TRIES: usize = 4;

/// Codes everything into a file, which gets its name when the result finishes. `pace` changes the steps of the plans, which are
/// for the global step `step`.
///
/// # Errors
/// If coding or writing fails.
pub fn write<'a>(
    planner: &'a Planner,
    path: &Path,
    mut plans: Vec<Option<Plan>>,
    step: f64,
    pace: &mut Pace,
) -> Result<Coded<'a>, EncodeError> {
    let Planner { inputs, assets, .. } = planner;
    let (objects, slots) = layout(assets, &inputs.tensors, &plans);
    let mut writer = Writer::create_over(path, inputs.base().cloned(), objects, slots, vec![])?;
    for (mode, bytes) in assets.iter().flat_map(|asset| &asset.pieces) {
        writer.push(*mode, bytes)?;
    }
    let kept: HashSet<usize> = plans.iter().flatten().filter_map(|plan| plan.reference).collect();
    let mut references = (!kept.is_empty()).then(|| References::beside(path)).transpose()?;
    let (mut reports, count) = (Vec::new(), plans.len());
    for (i, (tensor, plan)) in inputs.tensors.iter().zip(&mut plans).enumerate() {
        heard((planner.watch)(Progress::Coding(&tensor.name, i, count)))?;
        let Some(plan) = plan else {
            reports.push(TensorReport { base: tensor.usage(None), ..TensorReport::new(tensor, None, 0) });
            continue;
        };
        let reference = plan.reference.zip(references.as_mut());
        let reference = reference.map_or(Ok(None), |(tensor, references)| references.elements(tensor))?;
        let keeps = kept.contains(&i);
        let before = writer.length();
        let mut octaves = pace.octaves(i, before);
        let (report, units) = if keeps || pace.is_last(i) {
            hold(planner, i, plan, reference.as_deref(), (step, &mut octaves), before, pace)?
        } else {
            planner.change_step(i, plan, step * exp2(octaves))?;
            let mut push = |mode: Mode, bytes: &[u8]| writer.push(mode, bytes);
            (code(planner, i, plan, reference.as_deref(), &mut push)?, vec![])
        };
        for (mode, bytes) in &units {
            writer.push(*mode, bytes)?;
        }
        if let Some(references) = references.as_mut().filter(|_| keeps) {
            let broken = |error| EncodeError::Codec { tensor: tensor.name.clone(), error };
            references.push(
                i,
                &decoded::elements(inputs.matrix(i).dtype, &plan.tiles, &units, reference.as_deref())
                    .map_err(broken)?,
            )?;
        }
        pace.coded(i, octaves, writer.length() - before);
        inputs.release(i);
        reports.push(report);
    }
    let length = writer.length();
    Ok(Coded { length, ..Coded::new(inputs, assets, writer, reports) })
}

/// The units of a tensor, in order.
pub type Units = Vec<(Mode, Vec<u8>)>;

/// Codes a tensor and returns its units. The file has `before` bytes before it. The last tensor that depends on a step is coded
/// again, at other `octaves`, if the file misses its size.
///
/// # Errors
/// If coding fails.
pub fn hold(
    planner: &Planner,
    i: usize,
    plan: &mut Plan,
    reference: Option<&[u8]>,
    (step, octaves): (f64, &mut f64),
    before: u64,
    pace: &mut Pace,
) -> Result<(TensorReport, Units), EncodeError> {
    let mut tries = 0;
    loop {
        planner.change_step(i, plan, step * exp2(*octaves))?;
        let (mut units, mut held) = (Units::new(), before);
        let mut hold = |mode: Mode, bytes: &[u8]| {
            held = held.next_multiple_of(16) + bytes.len() as u64;
            units.push((mode, bytes.to_vec()));
            Ok(())
        };
        let report = code(planner, i, plan, reference, &mut hold)?;
        tries += 1;
        match pace.again(i, held).filter(|_| tries < TRIES) {
            Some(other) => *octaves = other,
            None => return Ok((report, units)),
        }
    }
}

/// Codes a tensor without layers and pushes its units. `reference` has the elements of the tensor that it may be predicted from.
pub fn code(
    planner: &Planner,
    i: usize,
    plan: &Plan,
    reference: Option<&[u8]>,
    push: &mut impl FnMut(Mode, &[u8]) -> Result<(), ContainerError>,
) -> Result<TensorReport, EncodeError> {
    let Planner { inputs, options, .. } = planner;
    let tensor = &inputs.tensors[i];
    let lattice = integers(planner, i, plan)?;
    let header = match &plan.coding {
        Coding::Delta(header) => Some(header),
        _ => lattice.as_ref().map(|(_, header)| header),
    };
    let rank = header.and_then(TensorHeader::low_rank).map_or(0, LowRank::rank);
    let zeros = lattice.as_ref().filter(|_| inputs.pruning(i).is_some()).map(|(integers, _)| integers.zeros());
    // A tensor has at most one of them.
    let reference = reference.or(tensor.over_elements());
    let (mode, bytes) = code_tensor(&tensor.name, &inputs.matrix(i), plan, lattice.as_ref(), reference, options, push)?;
    let report = TensorReport::new(tensor, Some(mode), bytes);
    let base = tensor.usage(Some(plan));
    Ok(TensorReport { format: inputs.format(i), rank, zeros, base, ..report })
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
