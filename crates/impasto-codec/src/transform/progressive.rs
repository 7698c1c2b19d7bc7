//! Units of wavelet coefficients in planes (SPEC 17.11 to 17.17). A unit can be cut after any plane, and its planes can be
//! shared out among the layers of a file.

use impasto_core::varint;

use super::UNIT;
use super::arithmetic::{Decoder, Encoder, Probability};
use super::bands::bands;
use super::planes::{Planes, SLOTS, Target};
use super::samples::{MOST, Samples};
use super::tile::PLANES;
use super::wavelet::{Filter, MOST_LEVELS, inverse, most_levels};
use crate::error::CodecError;

/// Bits of the form: 9/7 instead of 5/3; each band has a step index of its own.
const IRREVERSIBLE: u8 = 1;
const OWN_STEPS: u8 = 2;
/// The largest sum of the number of planes and of the octaves of a step.
const MOST_BITS: u32 = 30;
/// Octaves of a step per halving of rows or columns, in sixteenths: what keeps the error of all bands alike.
const PER_HALVING: u8 = 8;
/// 2^(k / 16) in units of 2^-23: the mantissas of `scale` (SPEC 10.2).
fn mantissa(k: u8) -> i64 {
    i64::from(impasto_core::lattice::scale((k & 15).into()).to_bits() & 0x7F_FFFF | 0x80_0000)
}

/// The steps of the bands, in sixteenths of an octave above a sample of 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// That of a band without halvings; each halving takes off half an octave, down to 0.
    Even(u8),
    /// Of each band.
    Own(Vec<u8>),
}

/// What a decoder needs besides the planes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The step of the tile over that of its tensor header, in sixteenths of an octave.
    pub step_index: i8,
    /// The filter.
    pub filter: Filter,
    /// Halvings of the rows, and of the columns.
    pub levels: [u8; 2],
    /// Where in its interval a coefficient is reconstructed, in 256ths; 128 is the middle.
    pub point: u8,
    /// The steps of the bands.
    pub steps: Steps,
    /// The number of planes that hold all coefficients.
    pub planes: u8,
}

/// A unit: its form, if it is in layer 0, and its planes.
struct Parts<'a> {
    /// Bytes before the number of planes that precede.
    form: &'a [u8],
    /// Planes of the layers below.
    first: u8,
    planes: Vec<&'a [u8]>,
}

fn field(field: &'static str, value: u64, rule: &'static str, clause: &'static str) -> CodecError {
    CodecError::Field { field, value, rule, clause }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], CodecError> {
    let (taken, after) = rest.split_at_checked(count).ok_or(CodecError::Truncated("planes"))?;
    *rest = after;
    Ok(taken)
}

impl Form {
    /// Returns the step index of each band.
    fn indices(&self, sides: [usize; 2]) -> Vec<u8> {
        match &self.steps {
            Steps::Own(indices) => indices.clone(),
            Steps::Even(index) => {
                let of =
                    |halvings: [u8; 2]| index.saturating_sub(PER_HALVING.saturating_mul(halvings[0] + halvings[1]));
                bands(sides, self.levels).iter().map(|band| of(band.halvings)).collect()
            }
        }
    }

    /// Checks the form for a tile of these sides.
    ///
    /// # Errors
    /// If it violates SPEC 17.12.
    pub fn check(&self, sides: [usize; 2]) -> Result<(), CodecError> {
        for (levels, side) in self.levels.into_iter().zip(sides) {
            if levels > most_levels(side) {
                return Err(field("levels", levels.into(), "the side has not so many halvings", "17.12"));
            }
        }
        let (steps, count) = match &self.steps {
            Steps::Own(indices) => (&indices[..], bands(sides, self.levels).len()),
            Steps::Even(index) => (std::slice::from_ref(index), 1),
        };
        if steps.len() != count {
            return Err(CodecError::Call("each band needs a step index"));
        }
        let octaves = u32::from(steps.iter().max().map_or(0, |index| index >> 4));
        if u32::from(self.planes) + octaves > MOST_BITS {
            return Err(field(
                "planes",
                self.planes.into(),
                "with the octaves of a step, at most 30 are allowed",
                "17.12",
            ));
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let filter = if self.filter == Filter::Cdf97 { IRREVERSIBLE } else { 0 };
        let (own, steps) = match &self.steps {
            Steps::Even(index) => (0, std::slice::from_ref(index)),
            Steps::Own(indices) => (OWN_STEPS, &indices[..]),
        };
        let levels = self.levels[0] & MOST_LEVELS | self.levels[1] << 4;
        let mut out = vec![PLANES, self.step_index as u8, filter | own, levels, self.point];
        out.extend(steps);
        out.push(self.planes);
        out
    }

    /// Reads the form of a unit in layer 0 of a tile of these sides.
    fn read(rest: &mut &[u8], sides: [usize; 2]) -> Result<Form, CodecError> {
        let (&[flags, step, form, levels, point], after) =
            rest.split_first_chunk().ok_or(CodecError::Truncated("form"))?;
        *rest = after;
        if flags != PLANES {
            return Err(field("flags", flags.into(), "with planes, all other bits must be 0", "17.11"));
        }
        if form & !(IRREVERSIBLE | OWN_STEPS) != 0 {
            return Err(field("form", form.into(), "an undefined bit is set", "17.12"));
        }
        let levels = [levels & MOST_LEVELS, levels >> 4];
        let mut found = Form {
            step_index: step as i8,
            filter: Filter::ALL[usize::from(form & IRREVERSIBLE)],
            levels,
            point,
            steps: Steps::Even(0),
            planes: 0,
        };
        found.check(sides)?;
        let count = if form & OWN_STEPS != 0 { bands(sides, levels).len() } else { 1 };
        let steps = take(rest, count)?;
        found.steps = if form & OWN_STEPS != 0 { Steps::Own(steps.to_vec()) } else { Steps::Even(steps[0]) };
        found.planes = take(rest, 1)?[0];
        found.check(sides)?;
        Ok(found)
    }
}

impl<'a> Parts<'a> {
    /// Splits a unit in layer 0 of a tile of these sides.
    fn base(unit: &'a [u8], sides: [usize; 2]) -> Result<(Form, Parts<'a>), CodecError> {
        let mut rest = unit;
        let form = Form::read(&mut rest, sides)?;
        Ok((form, Parts::read(&unit[..unit.len() - rest.len()], 0, rest)?))
    }

    /// Splits a unit in a layer above 0.
    fn above(unit: &'a [u8]) -> Result<Parts<'a>, CodecError> {
        let (&[flags, first], rest) = unit.split_first_chunk().ok_or(CodecError::Truncated("planes"))?;
        if flags != PLANES {
            return Err(field("flags", flags.into(), "above layer 0 there are only planes", "17.17"));
        }
        Parts::read(&[], first, rest)
    }

    /// Splits the planes that follow `form`.
    fn read(form: &'a [u8], first: u8, mut rest: &'a [u8]) -> Result<Parts<'a>, CodecError> {
        let count = take(&mut rest, 1)?[0];
        let lengths = (0..count).map(|_| varint::read(&mut rest)).collect::<Result<Vec<u64>, _>>()?;
        let planes = lengths
            .into_iter()
            .map(|length| take(&mut rest, usize::try_from(length).unwrap_or(usize::MAX)))
            .collect::<Result<Vec<_>, _>>()?;
        if !rest.is_empty() {
            return Err(CodecError::TrailingBytes(rest.len(), "17.11"));
        }
        Ok(Parts { form, first, planes })
    }

    fn to_bytes(&self, in_base: bool) -> Vec<u8> {
        let mut out = if in_base { self.form.to_vec() } else { vec![PLANES, self.first] };
        out.push(self.planes.len() as u8);
        self.planes.iter().for_each(|plane| varint::write(&mut out, plane.len() as u64));
        self.planes.iter().for_each(|plane| out.extend_from_slice(plane));
        out
    }
}

/// Codes coefficients in planes: their magnitudes over the steps of their bands, with their signs, row-major. Sets the
/// number of planes of the form.
///
/// # Errors
/// [`CodecError::Call`] if the form does not suit the tile, or the coefficients have more planes than it allows.
pub fn encode(form: &mut Form, sides: [usize; 2], coefficients: &[i32]) -> Result<Vec<u8>, CodecError> {
    form.planes = 0;
    let unfit = |_| CodecError::Call("the form does not suit the tile");
    form.check(sides).map_err(unfit)?;
    if coefficients.len() != sides[0] * sides[1] {
        return Err(CodecError::Call("each element of the tile needs a coefficient"));
    }
    let target = Target::new(sides, form.levels, coefficients);
    form.planes = target.planes() as u8;
    form.check(sides).map_err(unfit)?;
    let (mut planes, mut probabilities) = (Planes::new(sides, form.levels), vec![Probability::HALF; SLOTS]);
    let mut coded = Vec::new();
    for plane in (0..u32::from(form.planes)).rev() {
        let mut encoder = Encoder::with(probabilities);
        planes.code(&mut encoder, plane, Some(&target))?;
        let bytes;
        (bytes, probabilities) = encoder.finish_short();
        coded.push(bytes);
    }
    let form = form.to_bytes();
    Ok(Parts { form: &form, first: 0, planes: coded.iter().map(Vec::as_slice).collect() }.to_bytes(true))
}

/// Returns the number of planes of the unit of a tile in layer 0, or `None` if it has none: it is coded in blocks.
///
/// # Errors
/// If the unit violates SPEC 17.11 or 17.12.
pub fn planes(unit: &[u8], height: usize, width: usize) -> Result<Option<usize>, CodecError> {
    if unit.first().is_none_or(|flags| flags & PLANES == 0) {
        return Ok(None);
    }
    Ok(Some(Parts::base(unit, [height, width])?.1.planes.len()))
}

/// Shares the planes of a unit in layer 0 out among layers: each ends after one of the numbers of planes `ends`, which
/// ascend. Planes after the last one are left out; a single end cuts the unit.
///
/// # Errors
/// If the unit violates SPEC 17.11 or 17.12; [`CodecError::Call`] if the ends descend or are past the last plane.
pub fn split(unit: &[u8], height: usize, width: usize, ends: &[usize]) -> Result<Vec<Vec<u8>>, CodecError> {
    let (_, Parts { form, planes, .. }) = Parts::base(unit, [height, width])?;
    let mut first = 0;
    let layer = |(i, &end): (usize, &usize)| {
        let part = planes.get(first..end).ok_or(CodecError::Call("the ends of layers are not planes in order"))?;
        let unit = Parts { form, first: first as u8, planes: part.to_vec() }.to_bytes(i == 0);
        first = end;
        Ok(unit)
    };
    ends.iter().enumerate().map(layer).collect()
}

/// Decodes the units of a tile of `height` x `width` elements, from layer 0 up.
///
/// Memory is in proportion to the tile; time to its elements and to the bytes of the units.
///
/// # Errors
/// If a unit violates SPEC 17.11 to 17.17; [`CodecError::Call`] if there is none.
pub fn decode(units: &[&[u8]], height: usize, width: usize) -> Result<(Form, Samples), CodecError> {
    let sides = [height, width];
    let (base, above) = units.split_first().ok_or(CodecError::Call("a tile needs at least one unit"))?;
    let (form, base) = Parts::base(base, sides)?;
    let mut planes = Planes::new(sides, form.levels);
    let mut probabilities = vec![Probability::HALF; SLOTS];
    let mut left = form.planes;
    let above = above.iter().map(|unit| Parts::above(unit));
    for parts in std::iter::once(Ok(base)).chain(above) {
        let parts = parts?;
        if form.planes - left != parts.first {
            return Err(field("planes below", parts.first.into(), "the layers below have not so many", "17.17"));
        }
        if parts.planes.len() > left.into() {
            return Err(field("count", parts.planes.len() as u64, "the tile has not so many planes", "17.11"));
        }
        for bytes in parts.planes {
            left -= 1;
            let mut decoder = Decoder::short(std::mem::take(&mut probabilities), bytes)?;
            planes.code(&mut decoder, left.into(), None)?;
            probabilities = decoder.finish_short()?;
        }
    }
    let samples = reconstruct(&form, &planes, left.into(), sides);
    Ok((form, samples))
}

/// Returns the samples of coefficients whose planes are known down to `plane`.
fn reconstruct(form: &Form, planes: &Planes, plane: u32, sides: [usize; 2]) -> Samples {
    let indices = form.indices(sides);
    let point = i64::from(form.point);
    let mut values = vec![0; sides[0] * sides[1]];
    planes.each(plane, |band, place, magnitude, negative| {
        let index = indices[band];
        let size = ((i64::from(magnitude) << 8 | point) << (plane + u32::from(index >> 4))) * mantissa(index);
        let size = ((size - (point << 23)) >> 31) as i32;
        values[place] = if negative { -size } else { size };
    });
    inverse(form.filter, &mut values, sides, form.levels);
    let mut samples = Samples::new(sides[0], sides[1]);
    let stride = samples.sides[1];
    for (to, from) in samples.values.chunks_exact_mut(stride.max(1)).zip(values.chunks_exact(sides[1].max(1))) {
        let clamped = from.iter().map(|x| x.clamp(&(-MOST as i32), &(MOST as i32)));
        to.iter_mut().zip(clamped).for_each(|(to, from)| *to = *from);
    }
    samples
}

/// Returns the step of each band of a tile of these sides, in steps of the tile.
pub fn band_steps(form: &Form, sides: [usize; 2]) -> Vec<f32> {
    form.indices(sides).into_iter().map(|index| impasto_core::lattice::scale(index.into()) * UNIT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transform::wavelet::forward;

    fn forms() -> impl Strategy<Value = ([usize; 2], Form)> {
        let sides = prop::array::uniform2(1usize..40);
        (
            sides,
            prop::array::uniform2(0u8..8),
            any::<bool>(),
            any::<(i8, u8, u8)>(),
            prop::collection::vec(0u8..160, 64),
        )
            .prop_map(|(sides, levels, cdf97, (step_index, point, even), own)| {
                let levels = [0, 1].map(|i| levels[i].min(most_levels(sides[i])));
                let count = bands(sides, levels).len();
                let steps = if even < 160 { Steps::Even(even) } else { Steps::Own(own[..count].to_vec()) };
                (sides, Form { step_index, filter: Filter::ALL[usize::from(cdf97)], levels, point, steps, planes: 0 })
            })
    }

    /// Integers of which most are small.
    fn integers(count: usize, mut seed: u32, most: i32) -> Vec<i32> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as i32
        };
        (0..count).map(|_| (next() % (2 * most + 1) - most) >> (next() % 20)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Coefficients are within their interval in every cut of a unit, and layers are the same as a cut.
        #[test]
        fn units_can_be_cut_after_any_plane((sides, mut form) in forms(), seed: u32, most in 0i32..3000) {
            let coefficients = integers(sides[0] * sides[1], seed, most);
            let unit = encode(&mut form, sides, &coefficients)?;
            let all = usize::from(form.planes);
            prop_assert_eq!(planes(&unit, sides[0], sides[1])?, Some(all));
            prop_assert_eq!(decode(&[&unit], sides[0], sides[1])?.0, form.clone());
            for end in 0..=all {
                let cut = split(&unit, sides[0], sides[1], &[end])?.remove(0);
                let decoded = decode(&[&cut], sides[0], sides[1])?.1;
                let ends = [end / 3, end / 2, end];
                let layers = split(&unit, sides[0], sides[1], &ends)?;
                let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
                prop_assert_eq!(&decode(&layers, sides[0], sides[1])?.1, &decoded);
                if end == all {
                    prop_assert_eq!(cut, unit.clone());
                }
                // The samples are those of the coefficients without their lower planes.
                let mut planes = Planes::new(sides, form.levels);
                let target = Target::new(sides, form.levels, &coefficients);
                let mut encoder = Encoder::new(SLOTS);
                let mut left = all;
                while left > all - end {
                    left -= 1;
                    planes.code(&mut encoder, left as u32, Some(&target))?;
                }
                let mut found = vec![0; coefficients.len()];
                planes.each(left as u32, |_, place, magnitude, negative| {
                    found[place] = if negative { -(magnitude as i32) } else { magnitude as i32 };
                });
                let wanted: Vec<i32> = coefficients.iter().map(|&c| c.signum() * (c.abs() >> left)).collect();
                prop_assert_eq!(found, wanted);
                prop_assert_eq!(reconstruct(&form, &planes, left as u32, sides), decoded);
            }
            prop_assert!(split(&unit, sides[0], sides[1], &[all + 1]).is_err());
            prop_assert!(split(&unit, sides[0], sides[1], &[2, 1]).is_err());
            let (shorter, longer) = (&unit[..unit.len() - 1], [&unit[..], &[0]].concat());
            prop_assert!(decode(&[shorter], sides[0], sides[1]).is_err());
            prop_assert!(decode(&[&longer], sides[0], sides[1]).is_err());
        }

        /// With 5/3 and steps of 1, samples survive exactly.
        #[test]
        fn all_planes_of_5_3_are_exact(sides in prop::array::uniform2(1usize..60), seed: u32, most in 0i32..1 << 20) {
            let samples = integers(sides[0] * sides[1], seed, most);
            let levels = sides.map(most_levels);
            let mut form =
                Form { step_index: 0, filter: Filter::Cdf53, levels, point: 128, steps: Steps::Even(0), planes: 0 };
            let mut plane = samples.clone();
            forward(form.filter, &mut plane, sides, levels);
            let unit = encode(&mut form, sides, &plane)?;
            let decoded = decode(&[&unit], sides[0], sides[1])?.1;
            let rows = decoded.rows().take(sides[0]);
            prop_assert_eq!(rows.flat_map(|row| row[..sides[1]].to_vec()).collect::<Vec<_>>(), samples);
        }

        /// Damage gives samples within their range, or an error.
        #[test]
        fn any_bytes_end(
            (sides, mut form) in forms(),
            seed: u32,
            at: prop::sample::Index,
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut unit = encode(&mut form, sides, &integers(sides[0] * sides[1], seed, 500))?;
            let at = at.index(unit.len());
            unit.splice(at..(at + bytes.len()).min(unit.len()), bytes.iter().copied());
            if let Ok((_, samples)) = decode(&[&unit], sides[0], sides[1]) {
                prop_assert!(samples.values.iter().all(|x| i64::from(x.unsigned_abs()) <= MOST));
            }
            let _ = decode(&[&bytes], sides[0], sides[1]);
            let _ = decode(&[&unit, &bytes], sides[0], sides[1]);
        }
    }

    /// Each rule of a unit, with the clause that an error cites.
    #[test]
    fn broken_units_are_refused() {
        let sides = [8, 8];
        let mut form = Form {
            step_index: 0,
            filter: Filter::Cdf97,
            levels: [3, 2],
            point: 128,
            steps: Steps::Even(100),
            planes: 0,
        };
        let unit = encode(&mut form, sides, &[5; 64]).expect("codes");
        assert_eq!((unit[6], unit[7]), (3, 3), "planes that there are, and that are in the unit");
        let refused = |units: &[&[u8]], clause: &str| {
            let error = decode(units, 8, 8).expect_err(clause).to_string();
            assert!(error.contains(clause), "{error}, not {clause}");
        };
        let with = |at: usize, byte: u8| [&unit[..at], &[byte], &unit[at + 1..]].concat();
        refused(&[&with(0, 65)], "17.11");
        refused(&[&with(2, 5)], "17.12");
        refused(&[&with(3, 0x24)], "17.12");
        refused(&[&with(3, 0x42)], "17.12");
        refused(&[&with(6, 25)], "17.12");
        refused(&[&with(6, 2)], "17.11");
        refused(&[&with(8, unit[8] + 1)], "11.1");
        refused(&[&[&unit[..], &[0]].concat()], "17.11");
        let layers = split(&unit, 8, 8, &[1, 2, 3]).expect("layers");
        let [a, b, c] = [0, 1, 2].map(|i| layers[i].as_slice());
        refused(&[a, c], "17.17");
        refused(&[a, &[&[0], &b[1..]].concat()], "17.17");
        refused(&[a, b, c, c], "17.17");
        refused(&[a, b, c, &[64, 3, 1, 1, 0]], "17.11");
        let long = [&unit[..8], &[unit[8] + 1], &unit[9..11], &[0], &unit[11..]].concat();
        refused(&[&long], "17.15");
        assert!(encode(&mut form, sides, &[1 << 25; 64]).is_err(), "too many planes");
        assert!(encode(&mut form, sides, &[1; 63]).is_err());
        assert!(matches!(decode(&[], 8, 8), Err(CodecError::Call(_))));
    }
}
