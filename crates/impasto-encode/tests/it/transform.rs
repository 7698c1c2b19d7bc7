//! What variants of a tile earn in mode transform: orders, learned transforms, run lengths; and that they never cost.

use impasto_codec::Steps;
use impasto_codec::transform::{Reference, decode, decode_layers, needs_reference};
use impasto_core::{DType, Place};
use impasto_encode::transform::{Coded, Effort, Request, Tools, code};
use proptest::prelude::*;

const HEIGHT: usize = 120;
const WIDTH: usize = 104;

fn noise(i: usize) -> f32 {
    let mut x = i as u64;
    for _ in 0..4 {
        x = (x ^ x >> 29).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn tile(value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..HEIGHT * WIDTH).map(|i| value(i / WIDTH, i % WIDTH) + 0.3 * noise(i)).collect()
}

fn wave(r: usize, c: usize) -> f32 {
    12.0 * (r as f32 / 11.0 + (c as f32 / 17.0).sin()).sin() + c as f32 / 9.0
}

/// Rows, and columns, in an order that looks random.
fn shuffled() -> Vec<f32> {
    tile(|r, c| wave(r * 77 % HEIGHT, c * 57 % WIDTH))
}

/// Parts of 8 rows, each a mixture of two patterns.
fn patterns() -> Vec<f32> {
    tile(|r, c| {
        9.0 * (noise(r % 8 + 900) * noise(c + r / 8 * 500) + noise(r % 8 + 950) * noise(c + r / 8 * 700 + 5000))
    })
}

/// Almost nothing: a few lone values.
fn sparse() -> Vec<f32> {
    tile(|r, c| if noise(r * WIDTH + c + 77) > 0.97 { 8.0 } else { 0.0 })
}

/// Codes a tile, and checks that a decoder finds what is reported. Returns it with its cost.
fn coded(values: &[f32], tools: &str, effort: Effort) -> (Coded, f64) {
    let tools: Tools = tools.parse().expect("tools");
    let request = Request { effort, ..Request::new(values, WIDTH, tools) };
    let coded = code(&request).expect("codes");
    let (parameters, samples) = decode(&coded.unit, HEIGHT, WIDTH).expect("decodes");
    let step = parameters.step(1.0) / 256.0;
    let decoded: Vec<f32> = samples.rows().flat_map(|row| row[..WIDTH].iter().map(|&x| x as f32 * step)).collect();
    assert_eq!(decoded[..HEIGHT * WIDTH], coded.values);
    let error: f64 = values.iter().zip(&coded.values).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let cost = error + f64::from(request.lambda) * coded.unit.len() as f64 * 8.0;
    (coded, cost)
}

/// Flags of a unit: SPEC 17.1.
fn flags(coded: &Coded) -> u8 {
    coded.unit[0]
}

#[test]
fn orders_earn_on_shuffled_tiles() {
    let values = shuffled();
    let ((with, _), (without, _)) =
        (coded(&values, "all", Effort::Fast), coded(&values, "-row-order,-column-order", Effort::Fast));
    assert!(flags(&with) & 0b1100 == 0b1100 && flags(&without) & 0b1100 == 0);
    assert!(with.unit.len() * 3 < without.unit.len() * 2, "{} {}", with.unit.len(), without.unit.len());
    let (rows, _) = coded(&values, "-column-order", Effort::Fast);
    assert_eq!(flags(&rows) & 0b1100, 0b100);
}

#[test]
fn learned_transforms_earn_on_patterns() {
    let values = patterns();
    let ((with, cost), (without, other)) = (
        coded(&values, "-row-order,-column-order", Effort::Fast),
        coded(&values, "-row-order,-column-order,-klt", Effort::Fast),
    );
    assert!(flags(&with) & 0b1_0000 != 0 && flags(&without) & 0b11_0000 == 0);
    assert!(cost < 0.9 * other, "{cost} {other}");
}

#[test]
fn nothing_costs_more_with_variants() {
    const NONE: &str = "-runs,-row-order,-column-order,-klt";
    for values in [tile(wave), shuffled(), patterns(), sparse(), tile(|_, _| 0.0)] {
        let ((_, with), (_, without)) = (coded(&values, "all", Effort::Fast), coded(&values, NONE, Effort::Fast));
        assert!(with <= without, "{with} {without}");
    }
    let values = patterns();
    let ((_, with), (_, without)) = (coded(&values, "all", Effort::Normal), coded(&values, NONE, Effort::Normal));
    assert!(with <= without, "{with} {without}");
}

/// More effort finds cheaper codes of what has structure. (Each choice is best for its block, not for those after it, so
/// the most effort may cost a little more on a single tile.)
#[test]
fn effort_pays() {
    let values = tile(|r, c| wave(r, c) * if (r / 24 + c / 40) % 2 == 0 { 1.0 } else { 0.2 });
    let [fast, normal, best] =
        [Effort::Fast, Effort::Normal, Effort::Best].map(|effort| coded(&values, "-row-order,-column-order", effort).1);
    assert!(normal < 0.97 * fast && best < 1.01 * normal && best != normal, "{best} {normal} {fast}");
}

#[test]
fn jpeg_codes_by_runs() {
    let jpeg = |values: &[f32]| {
        let tools = Tools::JPEG;
        code(&Request { as_jpeg: true, ..Request::new(values, WIDTH, tools) }).expect("codes")
    };
    let (smooth, noisy) = (jpeg(&tile(wave)), jpeg(&tile(|r, c| 8.0 * noise(r * WIDTH + c))));
    assert!(flags(&smooth) & 0b11_0011 == 2 && flags(&noisy) & 0b11_0011 == 2);
    assert!(smooth.unit.len() * 2 < noisy.unit.len(), "{} {}", smooth.unit.len(), noisy.unit.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A decoder finds what the encoder says, whatever the reference; and prediction from it never costs more than its search
    /// on its own is off.
    #[test]
    fn tiles_with_a_reference_survive(
        height in 1usize..40,
        width in 1usize..40,
        seed in 0usize..1 << 30,
        share in 0.0f32..1.5,
        with_orders: bool,
    ) {
        let other: Vec<f32> = (0..height * width).map(|i| 6.0 * noise(i + seed)).collect();
        let values: Vec<f32> =
            other.iter().enumerate().map(|(i, x)| share * x + (1.5 - share) * noise(i + seed + 5000)).collect();
        // Steps of the tensor are not 1, so values are in steps.
        let steps = Steps::new(0.25);
        let elements: Vec<u8> = other.iter().flat_map(|x| (x * 0.25).to_le_bytes()).collect();
        let place = Place { rows: 0..height, columns: 0..width };
        let reference = Reference { elements: &elements, dtype: DType::F32, steps: &steps, place: &place };
        let tools: Tools = if with_orders { "all" } else { "-row-order,-column-order,-cdf53,-cdf97" }.parse().expect("tools");
        let plain = Request { effort: Effort::Fast, ..Request::new(&values, width, tools) };
        let request = Request { reference: Some(reference), ..plain };
        let (coded, without) = (code(&request)?, code(&plain)?);
        let (parameters, samples) = decode_layers(&[&coded.unit], [height, width], 0.25, Some(&reference))?;
        let step = parameters.step(1.0) / 256.0;
        let rows = samples.rows().take(height);
        let decoded: Vec<f32> = rows.flat_map(|row| row[..width].iter().map(|&x| x as f32 * step)).collect();
        prop_assert_eq!(&decoded, &coded.values);
        prop_assert_eq!(decode(&coded.unit, height, width).is_err(), needs_reference(&coded.unit));
        prop_assert!(!needs_reference(&without.unit));
        prop_assert!(request.cost(&coded) <= 1.1 * plain.cost(&without) + 40.0);
    }
}

/// A tile that is nearly that of the reference takes a small part of its bits.
#[test]
fn a_reference_earns_on_copies() {
    let other: Vec<f32> = (0..HEIGHT * WIDTH).map(|i| 12.0 * noise(i)).collect();
    let values: Vec<f32> = other.iter().enumerate().map(|(i, x)| 0.8 * x + 0.3 * noise(i + 70_000)).collect();
    let steps = Steps::new(1.0);
    let elements: Vec<u8> = other.iter().flat_map(|x| x.to_le_bytes()).collect();
    let place = Place { rows: 0..HEIGHT, columns: 0..WIDTH };
    let reference = Some(Reference { elements: &elements, dtype: DType::F32, steps: &steps, place: &place });
    let coded = |tools: &str| {
        let tools: Tools = tools.parse().expect("tools");
        code(&Request { effort: Effort::Fast, reference, ..Request::new(&values, WIDTH, tools) }).expect("codes")
    };
    let (with, without) = (coded("-row-order,-column-order,-klt"), coded("-row-order,-column-order,-klt,-co-located"));
    assert!(flags(&with) & 0x80 != 0 && flags(&without) & 0x80 == 0);
    assert!(with.unit.len() * 10 < without.unit.len(), "{} {}", with.unit.len(), without.unit.len());
}
