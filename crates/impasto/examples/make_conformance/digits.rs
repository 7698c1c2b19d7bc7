//! Files for SPEC 18: packed integers, bytes under contexts, masks, palettes, one value.

use impasto_codec::digits;
use impasto_core::{DType, Mode};

use super::numbers::{Random, bell_floats, pack};
use super::set::{Matrix, Set};

/// One of the sixteen values of a digit, those in the middle most often.
fn level(random: &mut Random) -> u8 {
    (random.bell() / 40 + 8).clamp(0, 15) as u8
}

/// Tensors of packed integers, of scales, of blocks and of pruned weights.
pub fn digits_of_tensors() -> Result<Set, Box<dyn std::error::Error>> {
    let (mut set, mut random) = (Set::default(), Random(18));
    let mut packed = |n: usize| (0..n).map(|_| level(&mut random) | level(&mut random) << 4).collect::<Vec<u8>>();
    let tensor = |set: &mut Set, name: &str, matrix: Matrix, content: &[u8]| {
        set.tensor(name, &matrix);
        set.digits(&matrix, content)
    };
    let integers = Matrix { dtype: DType::I32, sides: (18, 70), tile: (12, 64) };
    tensor(&mut set, "a-packed", integers, &packed(18 * 70 * 4))?;
    let blocks = Matrix { dtype: DType::Q4_0, sides: (6, 40), tile: (6, 32) };
    tensor(&mut set, "b-blocks", blocks, &packed(6 * 40 * 18))?;
    let bytes: Vec<u8> = packed(50 * 50).iter().map(|b| b & 15 | (b & 7) << 5).collect();
    tensor(&mut set, "c-bytes", Matrix { dtype: DType::U8, sides: (50, 50), tile: (50, 64) }, &bytes)?;
    let weights = bell_floats(DType::Bf16, -5, 50 * 50, &mut random);
    let pruned: Vec<u32> =
        (0..).zip(weights).map(|(i, w)| if i % 4 == i / 4 % 4 || i % 2 == 0 { 0 } else { w }).collect();
    let matrix = Matrix { dtype: DType::Bf16, sides: (50, 50), tile: (50, 64) };
    tensor(&mut set, "d-pruned", matrix, &pack(DType::Bf16, &pruned))?;
    let ones = Matrix { dtype: DType::F64, sides: (9, 33), tile: (9, 32) };
    tensor(&mut set, "e-ones", ones, &1f64.to_le_bytes().repeat(9 * 33))?;
    // Values whose bits have nothing in common, so that no digit says which the next one is.
    let mut values = |n: usize, size: usize| (0..n).map(|_| random.bytes(size)).collect::<Vec<_>>();
    for (name, dtype, values) in [
        ("f-three", DType::Bf16, values(3, 2)),
        ("g-many", DType::F32, values(200, 4)),
        ("h-eight", DType::F64, values(8, 8)),
    ] {
        let index = |i: usize| i * i % 1009 * values.len() / 1009;
        let elements: Vec<u8> = (0..60 * 70).flat_map(|i| values[index(i)].clone()).collect();
        tensor(&mut set, name, Matrix { dtype, sides: (60, 70), tile: (60, 64) }, &elements)?;
    }
    Ok(set)
}

impl Set {
    /// Adds units to the last tensor, in mode digits.
    fn digits(&mut self, matrix: &Matrix, elements: &[u8]) -> super::set::Done {
        for (i, part) in matrix.parts(elements).iter().enumerate() {
            let unit = digits::encode(part, matrix.dtype.size()).ok_or("no elements")?;
            self.unit(i, Mode::DIGITS, unit);
        }
        Ok(())
    }
}
