use impasto_core::Isa;
use proptest::prelude::*;

use super::*;

/// Decodes with every instruction set, which must agree.
fn decoded(unit: &[u8], size: usize, bytes: usize) -> Result<Vec<u8>, CodecError> {
    let of = |isa| {
        let mut out = vec![0xA5; bytes];
        decode(isa, unit, size, &mut out).map(|()| out)
    };
    let scalar = of(Isa::Scalar);
    Isa::available().into_iter().for_each(|isa| assert_eq!(of(isa), scalar, "{isa:?}"));
    scalar
}

fn noise(n: usize) -> impl Iterator<Item = u64> {
    let step = |x: &u64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(1), step).map(|x| x >> 33).take(n)
}

/// An integer of 0 to 15 of which values near 8 are frequent, and its entropy in bits.
fn bell(x: u64) -> u8 {
    ((x & 7) + (x >> 3 & 7)) as u8
}
const BELL_BITS: f64 = 3.7036;

/// Weights in bf16 of which two in four are 0, in places without a pattern.
fn pruned(weights: usize) -> Vec<u8> {
    const PAIRS: [u8; 6] = [0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100];
    let kept = noise(weights / 4).flat_map(|x| (0..4).map(move |i| PAIRS[(x % 6) as usize] >> i & 1 == 1));
    let weight = |(is_kept, x): (bool, u64)| if is_kept { (x as u16 & 0x80FF) | 0x3F00 } else { 0 };
    kept.zip(noise(weights)).flat_map(|pair| weight(pair).to_le_bytes()).collect()
}

proptest! {
    #[test]
    fn round_trip(
        size in prop::sample::select(vec![1usize, 2, 3, 4, 8, 18]),
        counts in (0usize..3, 1usize..1100),
        mask in any::<u8>(),
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let count = counts.0 * 1024 + counts.1;
        let of = |i: usize| if mask >> (i % 8) & 1 == 0 || bytes.is_empty() { 0 } else { bytes[i * i % bytes.len()] };
        let elements: Vec<u8> = (0..count * size).map(|i| if mask == 255 { of(i) } else { of(i / size) }).collect();
        let unit = encode(&elements, size).expect("elements");
        prop_assert_eq!(decoded(&unit, size, elements.len()), Ok(elements));
    }

    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let elements = pruned(1500);
        let mut unit = encode(&elements, 2).expect("elements");
        let i = at.index(unit.len());
        unit[i] = byte;
        let _ = decoded(&unit, 2, elements.len());
        unit.truncate(cut.index(unit.len()));
        prop_assert!(decoded(&unit, 2, elements.len()).is_err());
    }
}

/// Few values without any structure in their bits: the entropy of which one it is.
#[test]
fn few_values_are_a_palette() {
    for (size, count) in [(2, 3), (2, 255), (4, 16), (8, 256)] {
        let value = |index: u64| (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17).to_le_bytes();
        let elements: Vec<u8> =
            noise(1 << 16).flat_map(|x| value(x % count).into_iter().take(size).collect::<Vec<_>>()).collect();
        let unit = encode(&elements, size).expect("elements");
        assert_eq!(unit[0], PALETTE, "{size} {count}");
        let bits = (unit.len() as f64 - (size as u64 * count) as f64) * 8.0 / f64::from(1 << 16);
        assert!(bits < (count as f64).log2() * 1.01 + 0.02, "{bits} bits of {count} values");
        assert!(!ends_in_noise(&elements[..2048 * size], size));
        assert_eq!(decoded(&unit, size, elements.len()), Ok(elements));
        let beyond = [
            &[PALETTE, unit[1] - 1][..],
            &unit[2..2 + size * (count as usize - 1)],
            &unit[2 + size * count as usize..],
        ];
        assert!(decoded(&beyond.concat(), size, (1 << 16) * size).is_err(), "an index beyond the palette");
    }
}

#[test]
fn packed_integers_come_near_their_entropy() {
    for per_element in [2, 8] {
        let n = 1 << 17;
        let digits: Vec<u8> = noise(n).map(bell).collect();
        let elements: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4).collect();
        let unit = encode(&elements, per_element / 2).expect("elements");
        let bits = unit.len() as f64 * 8.0 / n as f64;
        assert!(bits < BELL_BITS * 1.01, "{bits} bits");
        assert_eq!(decoded(&unit, per_element / 2, elements.len()), Ok(elements));
    }
}

#[test]
fn the_digit_before_is_a_context() {
    // Bytes of 16 values, any digit occurs.
    let elements: Vec<u8> = noise(1 << 16).map(|x| (x as u8 & 15) * 17).collect();
    let unit = encode(&elements, 1).expect("elements");
    assert!(unit.len() * 8 < elements.len() * 41 / 10, "{}", unit.len());
    assert_eq!(decoded(&unit, 1, elements.len()), Ok(elements));
}

#[test]
fn masks_show_their_pattern() {
    let (weights, elements) = (1 << 16, pruned(1 << 16));
    let unit = encode(&elements, 2).expect("elements");
    // A sixth of four weights, and eight or nine random bits of each second one.
    let bits = unit.len() as f64 * 8.0 / weights as f64;
    assert!(unit[0] == MASKED && bits < 6f64.log2() / 4.0 + 4.5 + 0.1, "{bits} bits");
    assert_eq!(decoded(&unit, 2, elements.len()), Ok(elements));
}

#[test]
fn a_constant_tile_is_one_element() {
    let elements = [1, 2, 3, 4].repeat(5000);
    let unit = encode(&elements, 4).expect("elements");
    assert_eq!(unit, [0, 1, 2, 3, 4]);
    assert_eq!(decoded(&unit, 4, elements.len()), Ok(elements));
    assert_eq!(encode(&[], 4), None);
}

#[test]
fn estimates_are_near_the_units() {
    for elements in [noise(1 << 15).map(bell).collect::<Vec<_>>(), pruned(1 << 14), vec![7; 1 << 15]] {
        let (guess, unit) = (estimate(&elements, 2), encode(&elements, 2).expect("elements").len() as u64);
        assert!(guess <= unit && unit <= guess + guess / 20 + 500, "{guess} is not near {unit}");
    }
}

#[test]
fn noise_is_told_from_what_is_pruned() {
    let dense: Vec<u8> = noise(2048).flat_map(|x| (x as u16 & 0x80FF | 0x3F00).to_le_bytes()).collect();
    assert!(ends_in_noise(&dense, 2) && !ends_in_noise(&pruned(2048), 2));
    let wider: Vec<u8> = dense.chunks_exact(2).flat_map(|bf16| [0, 0, bf16[0], bf16[1]]).collect();
    assert!(!ends_in_noise(&wider, 4), "binary32 that holds bf16");
}

#[test]
fn bad_units_cite_their_clause() {
    let elements = pruned(4092);
    let good = encode(&elements, 2).expect("elements");
    assert_eq!(good[..3], [MASKED, 0, 0]);
    let spoiled = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut unit = good.clone();
        change(&mut unit);
        decoded(&unit, 2, elements.len()).expect_err("it is refused").to_string()
    };
    assert!(spoiled(&|unit| unit[0] = 4).contains("form is 4: it must be 0, 1, 2 or 3 (SPEC 18.1)"));
    assert!(spoiled(&|unit| unit[3] = 0).contains("tables is 0: it must be 1 to 24 (SPEC 18.2)"));
    assert!(spoiled(&|unit| unit.push(0)).contains("1 bytes are left over"));
    assert!(spoiled(&|unit| unit.truncate(unit.len() - 1)).contains("ends inside its words"));
    let shorter = decoded(&good, 2, elements.len() - 16).expect_err("another number of elements").to_string();
    assert!(shorter.contains("SPEC 8.4"), "{shorter}");
}
