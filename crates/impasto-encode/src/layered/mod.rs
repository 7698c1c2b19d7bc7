//! Layered files.
//!
//! The steps of the top layer follow from its size, as in a file without layers, and those of coarser layers from
//! theirs. A factor is an integer, so each tensor takes the integer below or above the ideal one, such that the mean is
//! right (`factors`). Both follow what the tensors so far took (`ladder`). All units are coded and stored in a temporary file
//! (`code`), then written in order of gain per byte.

mod code;
mod factors;
mod ladder;

use std::path::Path;

use impasto_container::LayerMark;

use crate::arithmetic::{exp2, log2};
use crate::aside::{Aside, Ordered};
use crate::error::EncodeError;
use crate::layers::Extent;
use crate::options::Target;
use crate::planner::Planner;
use crate::rate::{Correction, TRIES, aim, meets};
use crate::report::{Coded, LayerReport, Report};

use code::set_aside;
use ladder::{Ladder, Shift};

/// Bits per weight that a refinement costs over a file without layers, at a feedback of [`USUAL_FEEDBACK`], and on a trellis besides,
/// at any feedback.
const OVERHEAD: f64 = 0.05;
const OF_TRELLIS: f64 = 0.05;
const USUAL_FEEDBACK: f64 = 0.25;
/// Most refinements: after this many halvings of the step, integers still fit 32 bits.
const MOST_REFINEMENTS: usize = 15;

/// Codes a layered file.
///
/// # Errors
/// If sizes are not ascending or cannot be met, or if coding or writing fails.
pub fn write(planner: &Planner, path: &Path) -> Result<Report, EncodeError> {
    let layers = &planner.options.layers;
    let top = planner.target_bytes();
    if planner.options.target == Target::Formats {
        // No tensor depends on a step, and there is no layer below those of formats.
        let plans = planner.plans(Some(1.0))?;
        let mut aside = set_aside(planner, path, plans, &mut Ladder::fixed(1.0, &[]))?;
        let ordered = aside.ordered();
        return write_ordered(planner, path, &mut aside, &ordered, &[])?.finish(None);
    }
    let wanted = wanted(planner, top)?;
    let weights = planner.inputs.lossy_weights() as f64;
    let bits = |bytes: u64, wanted: u64| (bytes as f64 - aim(wanted) as f64) * 8.0 / weights;
    let of_trellis = if planner.inputs.trellis().is_some() { OF_TRELLIS } else { 0.0 };
    let of_refinement = OVERHEAD * f64::from(layers.feedback) / USUAL_FEEDBACK + of_trellis;
    let overhead = of_refinement * wanted.len() as f64 * weights / 8.0;
    let step = planner.find_step(top.saturating_sub(overhead as u64))?;
    // Without a trellis, coarser integers cost less than alone, about as much as the refinements between cost more.
    let of_one = if planner.inputs.trellis().is_some() { of_refinement * weights / 8.0 } else { 0.0 };
    let alone = |(refinements, &bytes): (usize, &u64)| bytes.saturating_sub((of_one * refinements as f64) as u64);
    let below = wanted.iter().enumerate().map(alone).map(|bytes| planner.find_step(bytes).map(log2));
    let below = below.collect::<Result<Vec<f64>, _>>()?;
    let mut ladder = Ladder::new(planner, (&below, step), (&wanted, top), overhead * 8.0 / weights)?;
    let mut search = Correction::new(step);
    // Octaves from each layer's steps to those of the next finer one, from the top down.
    let mut octaves = ladder.octaves(Shift::default());
    for tries in 0..=TRIES {
        if tries > 0 {
            ladder = Ladder::fixed(search.step(), &octaves);
        }
        let plans = planner.plans(Some(search.step()))?;
        let mut aside = set_aside(planner, path, plans, &mut ladder)?;
        let ordered = aside.ordered();
        let count = wanted.len() + 2;
        let base = aside.length(&ordered, ordered.ends[0], count)?;
        let lossy = aside.length(&ordered, ordered.lossy, count)?;
        let too_large = wanted.first().filter(|&&wanted| base > wanted);
        let meets = meets(lossy, top);
        if too_large.is_none() && meets {
            return write_ordered(planner, path, &mut aside, &ordered, &wanted)?.finish(Some(search.step()));
        }
        if tries == 0 {
            // From now on, all tensors have the same step. The one that would have met the size is known.
            let missed = ladder.missed(base, lossy);
            search = Correction::new(search.step() * exp2(missed.top));
            octaves = ladder.octaves(missed);
            continue;
        }
        if let (Some(&wanted), Some(last)) = (too_large, octaves.last_mut()) {
            *last += bits(base, wanted);
        }
        if !meets {
            let coarser = bits(lossy, top);
            let finer = search.correct(coarser, coarser > 0.0);
            // The steps of the coarser layers stay the same.
            if let Some(first) = octaves.first_mut() {
                *first += finer;
            }
        }
    }
    Err(EncodeError::Missed { wanted: top })
}

/// Returns the sizes of the layers below the top one in bytes, the coarsest first.
fn wanted(planner: &Planner, top: u64) -> Result<Vec<u64>, EncodeError> {
    let layers = &planner.options.layers;
    let bytes = |&extent: &Extent| match extent {
        Extent::Size(bytes) => bytes,
        Extent::BitsPerWeight(bits) => planner.bytes_at(bits),
    };
    let wanted: Vec<u64> = layers.below.iter().map(bytes).collect();
    if !wanted.iter().chain([&top]).is_sorted_by(|a, b| a < b) {
        return Err(EncodeError::LayerOrder);
    }
    if wanted.len() > MOST_REFINEMENTS || !(0.0..=1.0).contains(&layers.feedback) {
        return Err(EncodeError::Layers { most: MOST_REFINEMENTS + 1 });
    }
    Ok(wanted)
}

/// Writes the units in order, with the marks of the requested layers.
fn write_ordered<'a>(
    planner: &'a Planner,
    path: &Path,
    aside: &mut Aside,
    ordered: &Ordered,
    wanted: &[u64],
) -> Result<Coded<'a>, EncodeError> {
    let count = wanted.len() + 2;
    let mut ends =
        wanted.iter().map(|&bytes| aside.most_within(ordered, bytes, count)).collect::<Result<Vec<_>, _>>()?;
    ends.push(ordered.lossy);
    if planner.options.layers.exact {
        ends.push(ordered.units.len());
    }
    let marks: Vec<LayerMark> = ends.iter().map(|&end| LayerMark { units: end as u32, kld: None }).collect();
    let layer = |mark: &LayerMark| {
        let bytes = aside.length(ordered, mark.units as usize, marks.len())?;
        Ok(LayerReport { units: mark.units, bytes })
    };
    let layers = marks.iter().map(layer).collect::<Result<Vec<_>, EncodeError>>()?;
    let writer = aside.write(path, ordered, marks)?;
    let tensors = std::mem::take(&mut aside.tensors);
    Ok(Coded { layers, ..Coded::new(&planner.inputs, &planner.assets, writer, tensors) })
}
