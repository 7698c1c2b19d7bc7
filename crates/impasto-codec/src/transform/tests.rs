//! Levels in each way to code them, and whole tiles: random partitions and levels, hostile bytes, wrong calls.

use impasto_core::lattice::scale;
use impasto_core::{DType, Isa, Mode, Place};
use proptest::prelude::*;

use super::arithmetic::{Decoder, Encoder, Price};
use super::basis::{Kind, MOST_LOG};
use super::co_located::arranged;
use super::learned::{Bases, Learned};
use super::levels::{MOST, Means};
use super::order::Order;
use super::samples::{Area, Prediction, Samples};
use super::scan::Form;
use super::setup::Setup;
use super::tree::{Block, Node, SLOTS, Split, Workspace, is_outside, patches, reconstruct, superblocks};
use super::{Parameters, Reference, TileWriter, decode, decode_layers, needs_reference};
use crate::error::CodecError;
use crate::header::{Body, Shape, Steps, TensorHeader};
use crate::index::IndexArray;
use crate::tile::{TileDecoder, Unit};

/// Numbers that decide a tile: an endless repetition of some bytes.
struct Choices<'a> {
    bytes: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    bases: Bases,
    /// Whether blocks may be predicted from another tile.
    co_located: bool,
}

impl Choices<'_> {
    fn below(&mut self, n: usize) -> usize {
        usize::from(*self.bytes.next().expect("bytes")) % n
    }

    /// A setup for a tile of these sides; each part of it is there in half of all cases.
    fn setup(&mut self, sides: [usize; 2]) -> Setup {
        let orders = sides.map(|count| {
            (self.below(2) == 0)
                .then(|| super::order::tests::shuffled(count, |n| (self.below(256) << 8 | self.below(256)) % n))
        });
        let bases = Bases::new([0; 2].map(|_| {
            let (there, log) = (self.below(2) == 0, 2 + self.below(4) as u32);
            let vectors: Vec<f32> = (0..1 << (2 * log)).map(|_| self.below(256) as f32 / 128.0 - 1.0).collect();
            there.then(|| Learned::new(log, &vectors).expect("a size"))
        }));
        self.bases = bases.clone();
        Setup { orders, bases }
    }

    fn node(&mut self, area: Area, sides: [usize; 2]) -> Node {
        let allowed = Split::allowed(area);
        let choice = if self.below(3) == 0 { allowed[self.below(allowed.len())] } else { Split::None };
        let split = Split::forced(area, sides).unwrap_or(choice);
        if split == Split::None {
            return Node::Block(self.block(area));
        }
        let parts = split.parts(area).filter(|&part| !is_outside(part, sides));
        Node::Split(split, parts.map(|part| self.node(part, sides)).collect())
    }

    fn block(&mut self, area: Area) -> Block {
        let mut kinds = [Kind::ALL[self.below(4)], Kind::ALL[self.below(4)]];
        let logs = area.logs.map(|log| log.min(MOST_LOG));
        for side in 0..2 {
            if self.bases.fits(side, logs[side]) && self.below(2) == 0 {
                kinds[side] = Kind::Learned;
            }
        }
        let prediction = match Prediction::ALL[self.below(if self.co_located { 8 } else { 7 })] {
            Prediction::CoLocated(_) => Prediction::CoLocated(self.below(64) as i8 - 32),
            Prediction::Linear(_) => Prediction::Linear([self.below(64) as i8 - 32, self.below(64) as i8 - 32]),
            other => other,
        };
        let levels = |patch: Area| {
            let mut levels: Vec<i32> = (0..1 << (patch.logs[0] + patch.logs[1]))
                .map(|_| match self.below(12) {
                    0 => self.below(200) as i32 - 100,
                    1 => (self.below(256) << 14) as i32 - (1 << 21),
                    2..6 => self.below(5) as i32 - 2,
                    _ => 0,
                })
                .collect();
            if self.below(4) == 0 || levels.iter().all(|&level| level == 0) {
                levels.clear();
            }
            levels
        };
        Block { prediction, kinds, patches: patches(area).map(levels).collect() }
    }
}

/// Reconstructs what a node says, without coding it.
fn apply(node: &Node, area: Area, bases: &Bases, dependent: bool, samples: &mut Samples) {
    match node {
        Node::Block(block) => {
            for (patch, levels) in patches(area).zip(&block.patches) {
                let levels = (!levels.is_empty()).then_some((block.kinds, &levels[..]));
                reconstruct(samples, bases, patch, block.prediction, levels, dependent, &mut Workspace::default());
            }
        }
        Node::Split(split, parts) => {
            let sides = samples.sides;
            let areas = split.parts(area).filter(|&part| !is_outside(part, sides));
            areas.zip(parts).for_each(|(area, part)| apply(part, area, bases, dependent, samples));
        }
    }
}

fn coded(choices: &[u8], height: usize, width: usize, parameters: Parameters) -> (Vec<u8>, Samples) {
    coded_from(choices, [height, width], parameters, &[])
}

/// Codes random choices; blocks may be predicted from samples of another tile, if there are any.
fn coded_from(
    choices: &[u8],
    [height, width]: [usize; 2],
    parameters: Parameters,
    co_located: &[i32],
) -> (Vec<u8>, Samples) {
    let bytes = choices.iter().cycle();
    let mut choices = Choices { bytes, bases: Bases::default(), co_located: !co_located.is_empty() };
    let setup = if choices.below(3) == 0 { Setup::default() } else { choices.setup([height, width]) };
    let mut writer = TileWriter::with_setup(parameters, setup.clone(), [height, width]).expect("a setup");
    let mut samples = Samples::new(height, width);
    samples.co_located = arranged(co_located, [height, width], &setup);
    let sides = samples.sides;
    for area in superblocks(sides) {
        let node = choices.node(area, sides);
        writer.push(area, sides, &node).expect("codes");
        apply(&node, area, &setup.bases, parameters.dependent, &mut samples);
    }
    samples.co_located.clear();
    setup.restore(&mut samples);
    (writer.finish(), samples)
}

fn header(step: f32, rows: Option<IndexArray>) -> TensorHeader {
    TensorHeader {
        shape: Shape::Parametric(0),
        plane: 0,
        row_classes: IndexArray::Constant(0),
        column_classes: IndexArray::Constant(0),
        body: Body::Lattice(Steps { rows, columns: Some(IndexArray::Constant(-5)), ..Steps::new(step) }),
    }
}

/// Levels as they are, with dependent quantization, and by runs.
fn ways() -> impl Strategy<Value = Parameters> {
    let way = |(dependent, runs)| Parameters { dependent, runs, step_index: 0 };
    prop::sample::select([(false, false), (true, false), (false, true)].map(way).to_vec())
}

fn forms() -> impl Strategy<Value = Form> {
    let kinds = prop::array::uniform2(prop::sample::select(Kind::ALL.to_vec()));
    (prop::array::uniform2(2u32..=5), kinds).prop_map(|(logs, kinds)| Form::new(logs, kinds))
}

proptest! {
    /// Blocks of one tile survive, with small and large levels, and what they cost is what they are priced at.
    #[test]
    fn levels_survive(
        way in ways(),
        forms in prop::collection::vec(forms(), 1..4),
        noise in prop::collection::vec(prop_oneof![
            8 => Just(0), 9 => -3i32..=3, 2 => -300i32..300, 1 => -(MOST as i32)..=MOST as i32
        ], 1..300),
    ) {
        let (mut encoder, mut means) = (Encoder::new(SLOTS), Means::new());
        let blocks: Vec<(Form, Vec<i32>)> = forms.into_iter().enumerate().map(|(i, form)| {
            let mut block: Vec<i32> = noise.iter().copied().cycle().skip(i).take(form.coefficients()).collect();
            block[i % form.coefficients()] = 1;
            (form, block)
        }).collect();
        for (form, block) in &blocks {
            let mut same = block.clone();
            let mut price = Price::new(encoder.probabilities());
            way.levels(&mut price, *form, &means, &mut same)?;
            way.levels(&mut encoder, *form, &means, &mut same)?;
            prop_assert_eq!(block, &same);
            means.update(*form, block);
        }
        let bytes = encoder.finish();
        let (mut decoder, mut means) = (Decoder::new(SLOTS, &bytes)?, Means::new());
        for (form, block) in &blocks {
            let mut found = vec![0; form.coefficients()];
            way.levels(&mut decoder, *form, &means, &mut found)?;
            prop_assert_eq!(block, &found);
            means.update(*form, block);
        }
        decoder.finish()?;
    }

    /// Hostile bytes give levels within their range, or an error.
    #[test]
    fn levels_of_any_bytes_end(way in ways(), bytes in prop::collection::vec(any::<u8>(), 4..400), form in forms()) {
        let (mut decoder, mut means) = (Decoder::new(SLOTS, &bytes)?, Means::new());
        for _ in 0..100 {
            let mut found = vec![0; form.coefficients()];
            if way.levels(&mut decoder, form, &means, &mut found).is_err() {
                return Ok(());
            }
            prop_assert!(found.iter().all(|level| level.unsigned_abs() <= MOST));
            means.update(form, &found);
        }
    }
}

proptest! {
    #[test]
    fn tiles_survive(
        choices in prop::collection::vec(any::<u8>(), 1..500),
        height in 1usize..140,
        width in 1usize..140,
        levels in 0..3,
        step_index: i8,
    ) {
        let parameters = Parameters { dependent: levels == 1, runs: levels == 2, step_index };
        let (unit, samples) = coded(&choices, height, width, parameters);
        prop_assert_eq!(decode(&unit, height, width)?, (parameters, samples));
        prop_assert!(decode(&unit[..unit.len() - 1], height, width).is_err());
        prop_assert!(decode(&[&unit[..], &[0]].concat(), height, width).is_err());
    }

    /// Tiles survive of which blocks are predicted from another tile, whatever that is.
    #[test]
    fn co_located_tiles_survive(
        choices in prop::collection::vec(any::<u8>(), 1..300),
        others in prop::collection::vec(any::<u32>(), 1..40),
        height in 1usize..90,
        width in 1usize..90,
        levels in 0..3,
        step_index: i8,
    ) {
        let parameters = Parameters { dependent: levels == 1, runs: levels == 2, step_index };
        // Bits of any floats, most of them a few steps.
        let float = |(i, bits): (usize, &u32)| if i % 3 == 0 { f32::from_bits(*bits) } else { *bits as i32 as f32 * 1e-8 };
        let floats = others.iter().enumerate().map(float).cycle().take(height * width);
        let elements: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
        let header = header(0.5, Some(IndexArray::new((0..height as i16).collect())));
        let steps = header.steps().expect("of kind lattice");
        let place = Place { rows: 0..height, columns: 0..width };
        let reference = Reference { elements: &elements, dtype: DType::F32, steps, place: &place };
        let other = reference.samples(parameters.step(0.5));
        prop_assert!(other.iter().all(|sample| sample.unsigned_abs() <= 1 << 29));
        let (unit, samples) = coded_from(&choices, [height, width], parameters, &other);
        let layers = |reference| decode_layers(&[&unit], [height, width], 0.5, reference);
        prop_assert_eq!(layers(Some(&reference))?, (parameters, samples));
        prop_assert_eq!(layers(None).is_err(), needs_reference(&unit));
        let cut = Reference { elements: &elements[4..], ..reference };
        prop_assert_eq!(layers(Some(&cut)).is_err(), needs_reference(&unit));
        let mut out = vec![0; elements.len()];
        let decoder = TileDecoder::new(DType::F32, vec![header.clone()], Isa::best())?;
        let units = [Unit { mode: Mode::TRANSFORM, bytes: &unit }];
        let decoded = decoder.decode_predicted(&units, Some(&elements), &place, &mut out, width * 4);
        // At the largest steps, those of rows are not finite.
        prop_assert!(decoded.is_ok() || !(parameters.step(0.5) * scale(height as i32 - 1)).is_finite());
    }

    /// Damage gives an error or samples, the same weights with every instruction set, never a panic.
    #[test]
    fn damage_never_panics(
        choices in prop::collection::vec(any::<u8>(), 1..300),
        bytes in prop::collection::vec(any::<u8>(), 1..300),
        at: prop::sample::Index,
        levels in 0..3,
    ) {
        let (mut unit, _) = coded(&choices, 40, 72, Parameters { dependent: levels == 1, runs: levels == 2, step_index: 3 });
        let at = at.index(unit.len());
        unit.truncate(at);
        unit.extend(&bytes);
        let place = Place { rows: 0..40, columns: 0..72 };
        let results: Vec<_> = Isa::available().into_iter().map(|isa| {
            let decoder = TileDecoder::new(DType::F16, vec![header(0.5, None)], isa).expect("a tensor header");
            let mut out = vec![0; 40 * 72 * 2];
            decoder.decode(&[Unit { mode: Mode::TRANSFORM, bytes: &unit }], &place, &mut out, 144).map(|()| out)
        }).collect();
        prop_assert!(results.windows(2).all(|r| r[0] == r[1]));
    }
}

#[test]
fn weights_are_samples_times_steps() {
    let parameters = Parameters { step_index: 16, ..Parameters::default() };
    let mut writer = TileWriter::new(parameters);
    let area = superblocks([4, 4]).next().expect("one");
    let levels = (0..16).map(|i| i - 8).collect();
    let block = Block { prediction: Prediction::Zero, kinds: [Kind::Identity; 2], patches: vec![levels] };
    let quarters = |node| Node::Split(Split::Quarters, vec![node]);
    let node = (0..4).fold(Node::Block(block), |node, _| quarters(node));
    writer.push(area, [4, 4], &node).expect("codes");
    let unit = writer.finish();
    let decoder = |header| TileDecoder::new(DType::F32, vec![header], Isa::Scalar).expect("a tensor header");
    let decode = |header, unit: &[u8]| {
        let mut out = vec![0; 2 * 3 * 4];
        let place = Place { rows: 1..3, columns: 0..3 };
        decoder(header).decode(&[Unit { mode: Mode::TRANSFORM, bytes: unit }], &place, &mut out, 12)?;
        Ok::<_, CodecError>(out.as_chunks().0.iter().map(|&w| f32::from_le_bytes(w)).collect::<Vec<_>>())
    };
    let rows = Some(IndexArray::new(vec![0, 16, 32]));
    let column = impasto_core::lattice::scale(-5);
    let wanted: Vec<f32> = [-8.0, -7.0, -6.0, -4.0 * 2.0, -3.0 * 2.0, -2.0 * 2.0].map(|w| w * column * 4.0).to_vec();
    assert_eq!(decode(header(1.0, rows.clone()), &unit), Ok(wanted));
    let error = decode(header(6e37, rows.clone()), &unit).expect_err("an infinite step");
    assert!(error.to_string().contains("17.2"), "{error}");
    let error = decode(header(1.0, rows), &[&[0x80], &unit[1..]].concat()).expect_err("flags");
    assert!(error.to_string().contains("17.18"), "{error}");
    let error = decode(header(1.0, None), &[&[3], &unit[1..]].concat()).expect_err("flags");
    assert!(error.to_string().contains("17.8"), "{error}");
}

/// What lies between two samples is rounded to the even one; NaN is 0, and what is too large is clamped.
#[test]
fn a_reference_is_rounded_to_samples() {
    let step = 2.0;
    let values = [1.0, -3.0, 0.5, 1.5, -2.5, f32::NAN, f32::INFINITY, -1e30, 7.0, 7.0, 7.0, 7.0];
    let elements: Vec<u8> = values.iter().flat_map(|value| (value * step / 256.0f32).to_le_bytes()).collect();
    let rows = Some(IndexArray::new(vec![100, 0, 0, 16]));
    let steps = Steps { rows, columns: Some(IndexArray::Constant(-16)), ..Steps::new(step) };
    let place = Place { rows: 1..4, columns: 2..6 };
    let reference = Reference { elements: &elements, dtype: DType::F32, steps: &steps, place: &place };
    assert_eq!(reference.samples(step), [2, -6, 1, 3, -5, 0, 1 << 29, -(1 << 29), 7, 7, 7, 7]);
    assert_eq!(reference.samples(4.0 * step), [0, -2, 0, 1, -1, 0, 1 << 29, -(1 << 29), 2, 2, 2, 2]);
    let setup = Setup { orders: [Order::new(vec![2, 0, 1]), None], ..Setup::default() };
    let wanted = [7, 7, 7, 7, 2, -6, 1, 3, -5, 0, 9, 9, -5, 0, 9, 9];
    let samples = [2, -6, 1, 3, -5, 0, 9, 9, 7, 7, 7, 7];
    assert_eq!(arranged(&samples, [3, 4], &setup), wanted, "the last row is repeated");
}

/// A tile needs a header of kind lattice, and a node the shape of its area.
#[test]
fn wrong_calls_are_refused() {
    let place = Place { rows: 0..4, columns: 0..4 };
    let unit = [Unit { mode: Mode::TRANSFORM, bytes: &[0; 20] }];
    let decoder = TileDecoder::new(DType::F32, vec![], Isa::Scalar).expect("no tensor header");
    let missing = CodecError::MissingHeader(Mode::TRANSFORM);
    assert_eq!(decoder.decode(&unit, &place, &mut [0; 64], 16), Err(missing));
    let above = [unit[0], Unit { mode: Mode::REFINEMENT, bytes: &[] }];
    let decoder = TileDecoder::new(DType::F32, vec![header(1.0, None)], Isa::Scalar).expect("a tensor header");
    let error = decoder.decode(&above, &place, &mut [0; 64], 16).expect_err("a refinement of no integers");
    assert!(error.to_string().contains("12.1"), "{error}");
    let mut writer = TileWriter::new(Parameters { dependent: true, ..Parameters::default() });
    let sides = [64, 64];
    let area = superblocks(sides).next().expect("one");
    let block =
        |n| Node::Block(Block { prediction: Prediction::Dc, kinds: [Kind::Dct; 2], patches: vec![vec![1; n]; 4] });
    assert!(matches!(writer.push(area, sides, &block(9)), Err(CodecError::Call(_))));
    assert!(matches!(writer.push(area, sides, &Node::Split(Split::Rows, vec![])), Err(CodecError::Call(_))));
    assert!(matches!(writer.push(area, [60, 64], &block(1024)), Err(CodecError::Call(_))));
    let one = Node::Block(Block { prediction: Prediction::Dc, kinds: [Kind::Dct; 2], patches: vec![] });
    assert!(matches!(writer.push(area, sides, &one), Err(CodecError::Call(_))));
    let setup = Setup { orders: [None, Order::new(vec![0, 1, 2])], ..Setup::default() };
    assert!(matches!(TileWriter::with_setup(Parameters::default(), setup, [4, 4]), Err(CodecError::Call(_))));
}
