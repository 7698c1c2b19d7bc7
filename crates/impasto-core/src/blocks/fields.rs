//! Where the integers of a block lie, so that they can be coded apart from the rest, the *head* (SPEC 16.3).
//!
//! Only for dtypes whose integers are evenly spaced, each in bits of its own. Blocks of the others are head only.

use super::apart::Form;
use crate::dtype::DType;

/// Bits of the integers of a block. The integer of weight `i` has `bits` bits in byte
/// `byte + i / (run * 8 / bits) * run + i % run`, from bit `i / run % (8 / bits) * bits` up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The first byte.
    pub byte: usize,
    /// Bits of each integer.
    pub bits: usize,
    /// Neighbouring weights that are in neighbouring bytes.
    pub run: usize,
}

/// Returns the fields that make up the integers of a dtype, lowest bits first.
pub const fn fields(dtype: DType) -> &'static [Field] {
    const fn field(byte: usize, bits: usize, run: usize) -> Field {
        Field { byte, bits, run }
    }
    match dtype {
        DType::Q4_0 => const { &[field(2, 4, 16)] },
        DType::Q4_1 => const { &[field(4, 4, 16)] },
        DType::Q5_0 => const { &[field(6, 4, 16), field(2, 1, 1)] },
        DType::Q5_1 => const { &[field(8, 4, 16), field(4, 1, 1)] },
        DType::Q8_0 => const { &[field(2, 8, 1)] },
        DType::Q2K => const { &[field(16, 2, 32)] },
        DType::Q3K => const { &[field(32, 2, 32), field(0, 1, 32)] },
        DType::Q4K => const { &[field(16, 4, 32)] },
        DType::Q5K => const { &[field(48, 4, 32), field(16, 1, 32)] },
        DType::Q6K => const { &[field(0, 4, 64), field(128, 2, 32)] },
        _ => &[],
    }
}

/// Returns the number of bytes of a block that are not in a field.
pub fn head_bytes(dtype: DType) -> usize {
    let bits: usize = fields(dtype).iter().map(|field| field.bits).sum();
    dtype.size() - bits * dtype.weights() / 8
}

/// Returns the positions of the bytes of the head, in order.
fn head(dtype: DType) -> impl Iterator<Item = usize> {
    let inside = move |byte: &usize| {
        let holds = |field: &Field| (field.byte..field.byte + dtype.weights() * field.bits / 8).contains(byte);
        fields(dtype).iter().any(holds)
    };
    (0..dtype.size()).filter(move |byte| !inside(byte))
}

/// Returns what the stored integers of 8 bits are XORed with: they are signed.
fn sign(dtype: DType) -> u8 {
    if Form::of(dtype).is_some_and(|form| form.bits == 8) { 128 } else { 0 }
}

/// Appends the head of a block.
pub fn append_head(dtype: DType, block: &[u8], out: &mut Vec<u8>) {
    out.extend(head(dtype).filter_map(|byte| block.get(byte)));
}

/// Makes a block of its head, with fields of zeros.
///
/// # Panics
/// If `block` or `head` has another size.
pub fn put_head(dtype: DType, head: &[u8], block: &mut [u8]) {
    assert!(block.len() == dtype.size() && head.len() == head_bytes(dtype), "a block of {}", dtype.name());
    block.fill(0);
    self::head(dtype).zip(head).for_each(|(at, &byte)| block[at] = byte);
}

/// Puts integers, which are those of [`Parts`](super::apart::Parts), into the fields of a block, which are zeros.
///
/// # Panics
/// If `block` has another size.
pub fn put_integers(dtype: DType, integers: &[u8], block: &mut [u8]) {
    assert!(block.len() == dtype.size(), "a block of {}", dtype.name());
    let sign = sign(dtype);
    let mut to = 0;
    for &Field { byte, bits, run } in fields(dtype) {
        let (of_byte, mask) = (8 / bits, (1u32 << bits) - 1);
        for (i, integers) in integers[..dtype.weights().min(integers.len())].chunks(run).enumerate() {
            let (from, shift) = (byte + i / of_byte * run, i % of_byte * bits);
            for (byte, integer) in block[from..].iter_mut().zip(integers) {
                *byte |= ((u32::from((integer ^ sign) >> to) & mask) << shift) as u8;
            }
        }
        to += bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::apart::Parts;
    use crate::rng::SplitMix64;

    #[test]
    fn heads_and_integers_make_the_block() {
        let mut rng = SplitMix64::new(9);
        for dtype in DType::BLOCKS {
            for _ in 0..20 {
                let block: Vec<u8> = (0..dtype.size()).map(|_| rng.next_u64() as u8).collect();
                let (mut parts, mut head) = (Parts::default(), vec![]);
                assert!(parts.read(dtype, &block));
                append_head(dtype, &block, &mut head);
                let mut made = vec![7; dtype.size()];
                put_head(dtype, &head, &mut made);
                // The scales are in the head.
                let mut without = Parts::default();
                assert!(without.read(dtype, &made));
                without.integers = parts.integers;
                assert_eq!(without, parts);
                put_integers(dtype, &parts.integers, &mut made);
                assert_eq!(made, block, "{}", dtype.name());
            }
        }
    }
}
