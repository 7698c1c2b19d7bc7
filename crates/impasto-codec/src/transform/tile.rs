//! A unit in mode transform: its parameters, and the code of its superblocks (SPEC 17.1).

use impasto_core::lattice::scale;

use super::arithmetic::{Coder, Decoder, Encoder, Probability};
use super::co_located::{CO_LOCATED, Reference, arranged};
use super::learned::Bases;
use super::levels::{self, Means};
use super::order::Order;
use super::progressive;
use super::runs;
use super::samples::{Area, Prediction, Samples};
use super::scan::Form;
use super::setup::Setup;
use super::tree::{self, Block, Node, SLOTS, Split, Workspace};
use super::wavelet::most_levels;
use crate::error::CodecError;

/// The flags of dependent quantization, and of levels by runs.
const DEPENDENT: u8 = 1;
const RUNS: u8 = 1 << 1;

/// The flag of wavelet coefficients in planes, instead of blocks.
pub(super) const PLANES: u8 = 1 << 6;

/// A sample of 1, in steps.
pub const UNIT: f32 = 1.0 / 256.0;

/// The parameters of a tile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Whether the points of a level depend on the levels before it.
    pub dependent: bool,
    /// Whether levels are coded by runs of zeros along the scan; not with `dependent`.
    pub runs: bool,
    /// The step of the tile over that of its tensor header, in sixteenths of an octave.
    pub step_index: i8,
}

impl Parameters {
    /// Returns the step of the tile, given that of the tensor header (SPEC 17.2).
    pub fn step(self, step: f32) -> f32 {
        step * scale(self.step_index.into())
    }

    /// Codes the levels of a patch, of which at least one is not 0; a decoder finds them all 0.
    pub(super) fn levels<C: Coder>(
        self,
        coder: &mut C,
        form: Form,
        means: &Means,
        of: &mut [i32],
    ) -> Result<(), CodecError> {
        if self.runs {
            runs::levels(coder, form, means, of)
        } else {
            levels::levels(coder, form, means, self.dependent, of)
        }
    }
}

/// Writes the unit of a tile, superblock by superblock.
pub struct TileWriter {
    parameters: Parameters,
    setup: Setup,
    encoder: Encoder,
    means: Means,
    /// Whether a block is predicted from the reference.
    is_co_located: bool,
}

impl TileWriter {
    /// Begins a unit without anything before its superblocks.
    pub fn new(parameters: Parameters) -> Self {
        let (setup, means) = Default::default();
        TileWriter { parameters, setup, encoder: Encoder::new(SLOTS), means, is_co_located: false }
    }

    /// Begins a unit for a tile of height and width `sides`. Its samples are coded in the orders of the setup.
    ///
    /// # Errors
    /// [`CodecError::Call`] if an order is not one of that many rows or columns.
    pub fn with_setup(parameters: Parameters, setup: Setup, sides: [usize; 2]) -> Result<Self, CodecError> {
        let fits =
            |(order, count): (&Option<Order>, usize)| order.as_ref().is_none_or(|order| order.places().len() == count);
        if !setup.orders.iter().zip(sides).all(fits) {
            return Err(CodecError::Call("an order has one place for each row or column of the tile"));
        }
        let mut writer = TileWriter::new(parameters);
        Setup::code(&mut writer.encoder, setup.flags(), sides, &setup)?;
        Ok(TileWriter { setup, ..writer })
    }

    /// Returns the probabilities and the means as they are now.
    pub fn model(&self) -> (&[Probability], &Means) {
        (self.encoder.probabilities(), &self.means)
    }

    /// Writes the next part of samples with these sides.
    ///
    /// # Errors
    /// [`CodecError::Call`] if the node does not fit the area; a level that is too large. The unit is then of no use.
    pub fn push(&mut self, area: Area, sides: [usize; 2], node: &Node) -> Result<(), CodecError> {
        let unfit = CodecError::Call("the partition does not fit the tile");
        let forced = Split::forced(area, sides);
        let split = match node {
            Node::Block(_) => Split::None,
            Node::Split(split, _) => *split,
        };
        match forced {
            Some(forced) if forced != split => return Err(unfit),
            Some(_) => {}
            None if !Split::allowed(area).contains(&split) => return Err(unfit),
            None => drop(tree::split(&mut self.encoder, area, split)?),
        }
        match node {
            Node::Block(block) => self.push_block(area, block),
            Node::Split(_, parts) => {
                let areas: Vec<Area> = split.parts(area).filter(|&part| !tree::is_outside(part, sides)).collect();
                if areas.len() != parts.len() {
                    return Err(unfit);
                }
                areas.into_iter().zip(parts).try_for_each(|(area, part)| self.push(area, sides, part))
            }
        }
    }

    fn push_block(&mut self, area: Area, block: &Block) -> Result<(), CodecError> {
        if tree::patches(area).count() != block.patches.len() {
            return Err(CodecError::Call("a block needs the levels of each of its patches"));
        }
        let mut sent = false;
        self.is_co_located |= matches!(block.prediction, Prediction::CoLocated(_));
        tree::prediction(&mut self.encoder, area, block.prediction)?;
        for (patch, levels) in tree::patches(area).zip(&block.patches) {
            if !levels::coded(&mut self.encoder, patch.logs, !levels.is_empty())? {
                continue;
            }
            let form = Form::new(patch.logs, block.kinds);
            if levels.len() != form.coefficients() || levels.iter().all(|&level| level == 0) {
                return Err(CodecError::Call("a coded patch needs one level per sample, not all of them 0"));
            }
            if !std::mem::replace(&mut sent, true) {
                tree::kinds(&mut self.encoder, &self.setup.bases, patch.logs, block.prediction, block.kinds)?;
            }
            self.parameters.levels(&mut self.encoder, form, &self.means, &mut levels.clone())?;
            self.means.update(form, levels);
        }
        Ok(())
    }

    /// Returns the unit.
    pub fn finish(self) -> Vec<u8> {
        let Parameters { dependent, runs, .. } = self.parameters;
        let flags = [(dependent, DEPENDENT), (runs, RUNS), (self.is_co_located, CO_LOCATED)];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum::<u8>();
        let mut out = vec![flags | self.setup.flags(), self.parameters.step_index as u8];
        out.extend(self.encoder.finish());
        out
    }
}

/// Returns the most bytes of memory that decoding a tile of these sides takes, in proportion to its elements: its samples,
/// and with planes its coefficients, those of each band with a margin; those of the reference are not counted.
pub fn memory_bytes(height: u64, width: u64) -> u64 {
    let samples = height.next_multiple_of(4) * width.next_multiple_of(4) * 4;
    // Each halving of the rows adds bands of twice the width at most, and so do columns.
    let bands = |side: u64| 1 + 2 * u64::from(most_levels(side as usize));
    let margins = 2 * (width * bands(height) + height * bands(width)) + 4 * (bands(height) + bands(width));
    samples + height * width * 4 + (height * width + margins) * 5
}

/// Decodes the unit of a tile of `height` x `width` elements, of a tensor without a reference.
///
/// Memory is in proportion to the tile; time to its elements and to the bytes of the unit.
///
/// # Errors
/// If the unit violates SPEC 17.
pub fn decode(unit: &[u8], height: usize, width: usize) -> Result<(Parameters, Samples), CodecError> {
    decode_layers(&[unit], [height, width], 1.0, None)
}

/// Decodes the units of a tile of height and width `sides`, from layer 0 up; blocks have no layers above. `step` is that of
/// the tensor header, and `reference` what blocks may be predicted from.
///
/// # Errors
/// As for [`decode`]; if the unit needs a reference, and there is none.
pub fn decode_layers(
    units: &[&[u8]],
    [height, width]: [usize; 2],
    step: f32,
    reference: Option<&Reference>,
) -> Result<(Parameters, Samples), CodecError> {
    let (unit, above) = units.split_first().ok_or(CodecError::Call("a tile needs at least one unit"))?;
    let ([flags, step_index], code) = unit.split_first_chunk().ok_or(CodecError::Truncated("parameters"))?;
    let refuse = |rule, clause| Err(CodecError::Field { field: "flags", value: u64::from(*flags), rule, clause });
    if flags & PLANES != 0 {
        let (form, samples) = progressive::decode(units, height, width)?;
        return Ok((Parameters { dependent: false, runs: false, step_index: form.step_index }, samples));
    }
    if !above.is_empty() {
        return refuse("a tile in blocks has no planes to add to", "17.17");
    }
    let [dependent, runs, is_co_located] = [DEPENDENT, RUNS, CO_LOCATED].map(|flag| flags & flag != 0);
    if dependent && runs {
        return refuse("levels by runs do not have dependent quantization", "17.8");
    }
    let parameters = Parameters { dependent, runs, step_index: *step_index as i8 };
    let mut decoder = Decoder::new(SLOTS, code)?;
    let setup = Setup::code(&mut decoder, *flags, [height, width], &Setup::default())?;
    let (mut samples, work) = (Samples::new(height, width), Workspace::default());
    if is_co_located {
        let Some(reference) = reference else { return refuse("the tensor has no reference", "17.18") };
        if reference.place.elements() != height * width || !reference.is_whole() {
            return Err(CodecError::Call("the reference needs one element for each of the tile"));
        }
        samples.co_located = arranged(&reference.samples(parameters.step(step)), [height, width], &setup);
    }
    let bases = &setup.bases;
    let mut reader = Reader { parameters, is_co_located, bases, decoder, means: Means::new(), samples, work };
    tree::superblocks(reader.samples.sides).try_for_each(|area| reader.area(area))?;
    let Reader { decoder, mut samples, .. } = reader;
    decoder.finish()?;
    samples.co_located = vec![];
    setup.restore(&mut samples);
    Ok((parameters, samples))
}

struct Reader<'a> {
    parameters: Parameters,
    is_co_located: bool,
    bases: &'a Bases,
    decoder: Decoder<'a>,
    means: Means,
    samples: Samples,
    work: Workspace,
}

impl Reader<'_> {
    /// Decodes an area. Recursion ends, because parts are smaller.
    fn area(&mut self, area: Area) -> Result<(), CodecError> {
        if tree::is_outside(area, self.samples.sides) {
            return Ok(());
        }
        let split = match Split::forced(area, self.samples.sides) {
            Some(split) => split,
            None => tree::split(&mut self.decoder, area, Split::None)?,
        };
        if split == Split::None { self.block(area) } else { split.parts(area).try_for_each(|part| self.area(part)) }
    }

    fn block(&mut self, area: Area) -> Result<(), CodecError> {
        let prediction = tree::prediction(&mut self.decoder, area, tree::FIRST_PREDICTION)?;
        if matches!(prediction, Prediction::CoLocated(_)) && !self.is_co_located {
            let (value, rule) = (prediction.number() as u64, "7 needs bit 7 of the flags");
            return Err(CodecError::Field { field: "prediction", value, rule, clause: "17.5" });
        }
        let Reader { parameters, bases, decoder, means, samples, work, .. } = self;
        let mut kinds = None;
        for patch in tree::patches(area) {
            if !levels::coded(decoder, patch.logs, false)? {
                tree::reconstruct(samples, bases, patch, prediction, None, parameters.dependent, work);
                continue;
            }
            let kinds = match kinds {
                Some(kinds) => kinds,
                None => *kinds.insert(tree::kinds(decoder, bases, patch.logs, prediction, tree::FIRST_KINDS)?),
            };
            let form = Form::new(patch.logs, kinds);
            let mut found = vec![0; form.coefficients()];
            parameters.levels(decoder, form, means, &mut found)?;
            means.update(form, &found);
            tree::reconstruct(samples, bases, patch, prediction, Some((kinds, &found)), parameters.dependent, work);
        }
        Ok(())
    }
}
