//! The encoding job of a file in layers.
//!
//! Steps of the top layer come from its size, as in a file without layers; those of coarser layers from theirs. A factor is a
//! whole number, so tensors take the one below or the one above what is wanted, such that together they meet it. All units
//! are coded and set aside, then written in the order of what they are worth.

use std::path::Path;

use impasto_codec::CodecError;
use impasto_container::{LayerMark, UnitSlot};
use impasto_core::{Mode, Place};
use rayon::prelude::*;

use crate::arithmetic::{exp2, log2_fixed};
use crate::aside::{Aside, Band, Ordered};
use crate::code::{code_exactly, code_tensor};
use crate::error::EncodeError;
use crate::job::{Job, Progress, SLACK, TRIES};
use crate::lattice::{Grid, Rows, round};
use crate::layers::{Extent, Nested, Step};
use crate::layout::layout;
use crate::plan::{Coding, Plan};
use crate::report::{Coded, LayerReport, Report, TensorReport};

/// What a refinement costs beside a file without layers, at a feedback of [`USUAL_FEEDBACK`], in bits a weight.
const OVERHEAD: f64 = 0.05;
const USUAL_FEEDBACK: f64 = 0.25;
/// Bands coded together: bounds memory.
const BATCH: usize = 64;
/// Most refinements: integers of as many halvings still fit their 32 bits.
const MOST_REFINEMENTS: usize = 15;
/// Largest factor of a refinement (SPEC 6).
const MOST: f64 = 64.0;

/// What steps are looked for: those of the top layer, and how many octaves there are from each layer's steps to those of the
/// next finer one, from the top down.
struct Search {
    step: f64,
    octaves: Vec<f64>,
    /// Logarithms of steps that were too fine and too coarse.
    low: Option<f64>,
    high: Option<f64>,
}

fn log2(x: f64) -> f64 {
    f64::from(log2_fixed(x).unwrap_or(0)) / 65536.0
}

impl Search {
    /// Moves the top layer's steps by so many octaves, coarser layers staying where they are.
    fn move_top(&mut self, octaves: f64) {
        let at = log2(self.step);
        if octaves > 0.0 {
            self.low = Some(at)
        } else {
            self.high = Some(at)
        }
        let next = match (self.low, self.high) {
            (Some(low), Some(high)) if !(low < at + octaves && at + octaves < high) => (low + high) / 2.0,
            _ => at + octaves,
        };
        if let Some(first) = self.octaves.first_mut() {
            *first += at - next;
        }
        self.step = exp2(next);
    }
}

/// For each tensor, given by its weights if it is coded with loss, its factors from the top down: whole numbers whose mean
/// logarithm over the weights comes to `octaves`.
fn factors(tensors: impl Iterator<Item = Option<u64>>, octaves: &[f64]) -> Vec<Vec<u8>> {
    // What each layer has had too much of so far, in octaves of all weights.
    let mut over = vec![0.0; octaves.len()];
    let factor = |weights: f64, over: &mut f64, octaves: f64| {
        let ideal = exp2(octaves).clamp(2.0, MOST);
        let octaves = log2(ideal);
        let excess = |factor: f64, over: f64| over + weights * (log2(factor) - octaves);
        // The two beside what is wanted, so that no tensor makes good what a large one has too much of.
        let (below, above) = (ideal.floor(), ideal.ceil());
        let best = if excess(below, *over).abs() <= excess(above, *over).abs() { below } else { above };
        *over = excess(best, *over);
        best as u8
    };
    let of_tensor = |weights: Option<u64>| match weights {
        Some(weights) => over.iter_mut().zip(octaves).map(|(over, &o)| factor(weights as f64, over, o)).collect(),
        None => vec![],
    };
    tensors.map(of_tensor).collect()
}

impl Job<'_> {
    /// Codes a file in layers.
    pub fn run_layered(&self, path: &Path) -> Result<Report, EncodeError> {
        let layers = &self.options.layers;
        let top = self.target_bytes();
        let bytes = |&extent: &Extent| match extent {
            Extent::Size(bytes) => bytes,
            Extent::BitsPerWeight(bits) => self.bytes_at(bits),
        };
        let wanted: Vec<u64> = layers.below.iter().map(bytes).collect();
        if !wanted.iter().chain([&top]).is_sorted_by(|a, b| a < b) {
            return Err(EncodeError::LayerOrder);
        }
        if wanted.len() > MOST_REFINEMENTS || !(0.0..=1.0).contains(&layers.feedback) {
            return Err(EncodeError::Layers { most: MOST_REFINEMENTS + 1 });
        }
        let weights = self.lossy_weights() as f64;
        let bits = |bytes: u64, wanted: u64| (bytes as f64 - (wanted - wanted / SLACK) as f64) * 8.0 / weights;
        let overhead = OVERHEAD * f64::from(layers.feedback) / USUAL_FEEDBACK * wanted.len() as f64 * weights / 8.0;
        let step = self.find_step(top.saturating_sub(overhead as u64))?;
        let mut logs = wanted.iter().map(|&bytes| self.find_step(bytes).map(log2)).collect::<Result<Vec<f64>, _>>()?;
        logs.push(log2(step));
        let octaves = logs.windows(2).rev().map(|pair| pair[0] - pair[1]).collect();
        let mut search = Search { step, octaves, low: None, high: None };
        for _ in 0..TRIES {
            let mut aside = self.set_aside(path, &search)?;
            let ordered = aside.ordered();
            let count = wanted.len() + 2;
            let base = aside.length(&ordered, ordered.ends[0], count)?;
            let lossy = aside.length(&ordered, ordered.lossy, count)?;
            let too_large = wanted.first().filter(|&&wanted| base > wanted);
            let meets = lossy <= top && lossy >= top - top / 200;
            if too_large.is_none() && meets {
                return self.write_layers(path, &mut aside, &ordered, &wanted)?.finish(Some(search.step));
            }
            if let (Some(&wanted), Some(last)) = (too_large, search.octaves.last_mut()) {
                *last += bits(base, wanted);
            }
            if !meets {
                search.move_top(bits(lossy, top));
            }
        }
        Err(EncodeError::Missed { wanted: top })
    }

    /// Codes everything at the steps of a search.
    fn set_aside(&self, path: &Path, search: &Search) -> Result<Aside, EncodeError> {
        let plans = self.plans(Some(search.step))?;
        let lossy = |i: usize| self.measure(i).map(|_| self.tensors[i].weights());
        let factors = factors((0..self.tensors.len()).map(lossy), &search.octaves);
        let (objects, _) = layout(&self.assets, &self.tensors, &plans);
        let mut aside = Aside::new(path, objects)?;
        let slot = |object: usize, tile: usize| UnitSlot {
            object: object as u32,
            tile: tile as u32,
            layer: 0,
            is_header: false,
        };
        for (object, asset) in self.assets.iter().enumerate() {
            for (tile, (mode, bytes)) in asset.pieces.iter().enumerate() {
                aside.push_base(slot(object, tile), *mode, bytes)?;
            }
        }
        for (i, (tensor, plan)) in self.tensors.iter().zip(&plans).enumerate() {
            (self.watch)(Progress::Coding(&tensor.name, i, plans.len()));
            let object = self.assets.len() + i;
            let (mode, bytes) = match plan {
                None => (None, 0),
                Some(plan) => match &plan.coding {
                    Coding::Lattice(grid) => {
                        (Some(Mode::LATTICE), self.set_lattice_aside(&mut aside, i, plan, grid, &factors[i])?)
                    }
                    _ => {
                        let mut units = Vec::new();
                        let mut push = |mode, bytes: &[u8]| {
                            units.push((mode, bytes.to_vec()));
                            Ok(())
                        };
                        let matrix = tensor.matrix(self.checkpoint);
                        let coded = code_tensor(&tensor.name, &matrix, plan, None, self.options.segments, &mut push)?;
                        let headers = units.iter().take_while(|(mode, _)| *mode == Mode::TENSOR_HEADER).count();
                        for (n, (mode, bytes)) in units.iter().enumerate() {
                            let slot = UnitSlot { is_header: n < headers, ..slot(object, n.saturating_sub(headers)) };
                            aside.push_base(slot, *mode, bytes)?;
                        }
                        (Some(coded.0), coded.1)
                    }
                },
            };
            self.checkpoint.release(tensor.info);
            aside.tensors.push(TensorReport::new(tensor, mode, bytes));
        }
        Ok(aside)
    }

    /// Codes a tensor on the lattice, in all layers; gives its bytes.
    fn set_lattice_aside(
        &self,
        aside: &mut Aside,
        tensor: usize,
        plan: &Plan,
        grid: &Grid,
        factors: &[u8],
    ) -> Result<u64, EncodeError> {
        let Some((metric, scales)) = self.measure(tensor) else { return Ok(0) };
        let matrix = self.tensors[tensor].matrix(self.checkpoint);
        let feedback = self.feedbacks.of(metric, matrix.columns)?;
        let top = round(&matrix, scales, &feedback, grid, &self.costs, Rows::All);
        let nested = Nested::new(&matrix, top, grid, &feedback, &self.costs, factors, &self.options.layers);
        let object = (self.assets.len() + tensor) as u32;
        let slot = |tile: u32, layer: usize, is_header| UnitSlot { object, tile, layer: layer as u8, is_header };
        let mut bytes = 0;
        let mut headers = Vec::new();
        for (layer, header) in nested.headers().enumerate() {
            let header = header.to_bytes();
            bytes += header.len() as u64;
            headers.push(aside.push(slot(0, layer, true), Mode::TENSOR_HEADER, &header)?);
        }
        aside.base.push(headers.remove(0));
        let tiles = (0..plan.tiles.tile_count()).filter_map(|tile| Some((tile, Place::from(plan.tiles.tile(tile)?))));
        let tiles: Vec<(u32, Place)> = tiles.collect();
        let bands: Vec<&[(u32, Place)]> = tiles.chunk_by(|a, b| a.1.rows == b.1.rows).collect();
        let weight = (1.0 / metric.relative).powi(2);
        for bands in bands.chunks(BATCH) {
            let code = |band: &&[(u32, Place)]| {
                let tile = |(_, place): &(u32, Place)| match nested.tile(place, self.options.segments) {
                    Some(units) => Ok(units),
                    None => Ok(vec![code_exactly(&matrix, place)?]),
                };
                let units = band.par_iter().map(tile).collect::<Result<Vec<_>, CodecError>>()?;
                Ok((units, nested.errors(band[0].1.rows.clone(), &feedback, &grid.rows)))
            };
            let coded: Result<Vec<_>, CodecError> = bands.par_iter().map(code).collect();
            let name = || self.tensors[tensor].name.clone();
            let coded = coded.map_err(|error| EncodeError::Codec { tensor: name(), error })?;
            for (band, (units, errors)) in bands.iter().zip(coded) {
                let mut layers = vec![vec![]; nested.layers()];
                for ((tile, _), units) in band.iter().zip(units) {
                    for (layer, (mode, unit)) in units.iter().enumerate() {
                        bytes += unit.len() as u64;
                        layers[layer].push(aside.push(slot(*tile, layer, false), *mode, unit)?);
                    }
                }
                aside.base.append(&mut layers.remove(0));
                let step = |(pair, units): (&[f64], &Vec<crate::aside::Unit>)| Step {
                    gain: (pair[0] - pair[1]) * weight,
                    bytes: units.iter().map(|unit| (unit.part.length as u64).next_multiple_of(16)).sum(),
                };
                let steps = errors.windows(2).zip(&layers).map(step).collect();
                aside.bands.push(Band { headers: headers.clone(), layers, steps });
            }
        }
        Ok(bytes)
    }

    /// Writes the units in their order, with the marks of the wanted layers.
    fn write_layers(
        &self,
        path: &Path,
        aside: &mut Aside,
        ordered: &Ordered,
        wanted: &[u64],
    ) -> Result<Coded, EncodeError> {
        let count = wanted.len() + 2;
        let mut ends =
            wanted.iter().map(|&bytes| aside.most_within(ordered, bytes, count)).collect::<Result<Vec<_>, _>>()?;
        ends.push(ordered.lossy);
        if self.options.layers.exact {
            ends.push(ordered.units.len());
        }
        let marks: Vec<LayerMark> = ends.iter().map(|&end| LayerMark { units: end as u32, kld: None }).collect();
        let layer = |mark: &LayerMark| {
            let bytes = aside.length(ordered, mark.units as usize, marks.len())?;
            Ok(LayerReport { units: mark.units, bytes })
        };
        let layers = marks.iter().map(layer).collect::<Result<Vec<_>, EncodeError>>()?;
        let writer = aside.write(path, ordered, marks)?;
        Ok(Coded { layers, ..self.coded(writer, std::mem::take(&mut aside.tensors)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_meet_their_mean() {
        let weights = |i: u64| 1000 + i * 7919 % 5000;
        let tensors = || (0..200).map(|i| (i % 9 != 4).then(|| weights(i)));
        let octaves = [1.3, 2.7, 0.2, 9.0];
        let found = factors(tensors(), &octaves);
        assert_eq!(found.len(), 200);
        let (mut sums, mut all) = ([0.0; 4], 0.0);
        for (factors, weights) in found.iter().zip(tensors()) {
            let Some(weights) = weights else {
                assert!(factors.is_empty(), "not coded with loss");
                continue;
            };
            assert!((2..=3).contains(&factors[0]) && (6..=7).contains(&factors[1]), "{factors:?}");
            assert_eq!(factors[2..], [2, 64], "the least and the most");
            sums.iter_mut().zip(factors).for_each(|(sum, &factor)| *sum += weights as f64 * f64::from(factor).log2());
            all += weights as f64;
        }
        for (sum, octaves) in sums.iter().zip(octaves).take(2) {
            assert!((sum / all - octaves).abs() < 0.01, "{sum} {all}");
        }
    }
}
