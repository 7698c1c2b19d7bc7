//! Matrices as bytes, in the layout of memory: written to a file, mapped later, and used in place.
//!
//! Everything begins at a multiple of a line of 64 bytes, in the byte order of the machine. The bytes have no version of
//! their own: whoever keeps them says with [`LAYOUT`] which code wrote them.
//!
//! [`Reader`] believes nothing. What kernels rely on without checks of their own, it checks before there is a matrix:
//! lengths, widths, and where columns, rows and outliers are. Other bytes are numbers, any of which are valid.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};
use impasto_core::files::Map;

use crate::packed::arena::Lines;
use crate::packed::cell::Line;

/// The version of the layout. Raise it with every change of what matrices keep in memory, or of how weights become that.
pub const LAYOUT: u64 = 2;

/// Bytes of a line, at which everything begins.
pub const ALIGNMENT: usize = size_of::<Line>();

/// Numbers in a line.
const NUMBERS: usize = ALIGNMENT / size_of::<u64>();

/// Writes matrices.
pub struct Writer<'w>(&'w mut dyn Write);

impl<'w> Writer<'w> {
    /// Writes to `out`, which is at a multiple of [`ALIGNMENT`].
    pub fn new(out: &'w mut dyn Write) -> Writer<'w> {
        Writer(out)
    }

    /// Writes up to 8 numbers.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// # Panics
    /// If there are more.
    pub fn numbers(&mut self, numbers: &[usize]) -> io::Result<()> {
        let mut line = [0u64; NUMBERS];
        line[..numbers.len()].iter_mut().zip(numbers).for_each(|(to, &number)| *to = number as u64);
        self.array(&line)
    }

    /// Writes elements, and zeros up to the end of the line.
    pub(crate) fn array<T: NoUninit>(&mut self, elements: &[T]) -> io::Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        self.0.write_all(bytes)?;
        self.0.write_all(&[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])
    }
}

/// Reads matrices from a mapped file, which they keep mapped.
///
/// The owner of the file must not change it while it is mapped: checks are made once. If it becomes shorter, kernels read
/// zeros, which lead to nothing outside the file, and [`Map::check`] tells.
pub struct Reader {
    map: Arc<Map>,
    rest: Range<usize>,
}

impl Reader {
    /// Reads what `map` has at `range`; `None` if that is not there, or not at multiples of [`ALIGNMENT`].
    pub fn new(map: Arc<Map>, range: Range<usize>) -> Option<Reader> {
        let is_aligned = [range.start, range.end].iter().all(|place| place.is_multiple_of(ALIGNMENT));
        (is_aligned && map.get(range.clone()).is_some()).then_some(Reader { map, rest: range })
    }

    /// Returns whether everything was read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads numbers, up to 8.
    pub fn numbers<const N: usize>(&mut self) -> Option<[usize; N]> {
        const { assert!(N <= NUMBERS) };
        let line: Vec<u64> = self.array(NUMBERS)?;
        let mut numbers = [0; N];
        for (number, &read) in numbers.iter_mut().zip(&line) {
            *number = usize::try_from(read).ok()?;
        }
        Some(numbers)
    }

    /// Reads a copy of `count` elements.
    pub(crate) fn array<T: AnyBitPattern + NoUninit>(&mut self, count: usize) -> Option<Vec<T>> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let part = self.take(bytes)?;
        // Maps begin at pages, so lines are aligned.
        Some(bytemuck::try_cast_slice(&self.map[part][..bytes]).ok()?.to_vec())
    }

    /// Refers to `count` lines, in place.
    pub(crate) fn lines(&mut self, count: usize) -> Option<Lines> {
        let part = self.take(count.checked_mul(ALIGNMENT)?)?;
        Lines::mapped(self.map.clone(), part)
    }

    /// Goes past `bytes` and the rest of their last line.
    fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let bytes = bytes.checked_next_multiple_of(ALIGNMENT).filter(|&bytes| bytes <= self.rest.len())?;
        let part = self.rest.start..self.rest.start + bytes;
        self.rest.start = part.end;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use impasto_core::DType;
    use impasto_core::rng::SplitMix64;

    use super::*;
    use crate::Pool;
    use crate::blocks::BlockMatrix;
    use crate::dense::DenseMatrix;
    use crate::low_rank::LowRankMatrix;
    use crate::packed::{Activations, Arena, ColumnOrder, Kernel, PackedMatrix, RowGroup, Scratch};

    /// Reads bytes as a mapped file.
    fn reader(folder: &Path, bytes: &[u8]) -> Reader {
        let path = folder.join("bytes");
        fs::write(&path, bytes).expect("written");
        let map = Arc::new(Map::new(&File::open(&path).expect("there"), &path).expect("mapped"));
        // The map keeps its bytes.
        fs::remove_file(&path).expect("removed");
        Reader::new(map, 0..bytes.len()).expect("whole lines")
    }

    fn written(write: impl FnOnce(&mut Writer) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut Writer::new(&mut bytes)).expect("memory");
        assert!(bytes.len().is_multiple_of(ALIGNMENT));
        bytes
    }

    /// A packed matrix of two row groups, with outliers far and near.
    fn packed(inputs: usize) -> PackedMatrix {
        let mut rng = SplitMix64::new(9);
        let widths: Vec<i32> = (0..inputs).map(|_| (rng.next_f64() * 5.0) as i32).collect();
        let columns = ColumnOrder::new(&vec![0.5; inputs], &widths).expect("columns");
        let mut group = |rows: usize, offset| {
            let integers: Vec<i32> = (0..rows * inputs)
                .map(|i| ((rng.next_f64() - 0.5) * if i % 61 == 0 { 900.0 } else { 9.0 }) as i32)
                .collect();
            let widths: Vec<i32> = (0..rows).map(|_| (rng.next_f64() * 5.0) as i32).collect();
            RowGroup::pack(&integers, &columns, &vec![0.25; rows], &widths, offset).expect("packs")
        };
        let groups = vec![group(37, 0), group(16, 40)];
        PackedMatrix::new(columns, groups).expect("one order of columns")
    }

    fn product(matrix: &PackedMatrix, tokens: usize) -> Vec<f32> {
        let x: Vec<f32> = (0..tokens * matrix.inputs()).map(|i| (i % 13) as f32 - 6.0).collect();
        let (mut out, pool) = (vec![0.0; tokens * matrix.outputs()], Pool::new(2).expect("threads"));
        let outputs = matrix.outputs();
        let scratch = &mut Scratch::new();
        matrix.multiply(Kernel::best(), Activations::Int8, &x, tokens, &mut out, outputs, scratch, &pool);
        out
    }

    #[test]
    fn packed_matrices_are_the_same_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        for inputs in [1, 33, 300, 4200] {
            let matrix = packed(inputs);
            let mut reader = reader(folder.path(), &written(|to| matrix.write(to)));
            let read = PackedMatrix::read(&mut reader).expect("a matrix");
            assert!(reader.is_at_end());
            assert_eq!((read.report(), read.inputs()), (matrix.report(), inputs));
            for tokens in [1, 7] {
                assert_eq!(product(&read, tokens), product(&matrix, tokens), "{inputs} columns, {tokens} tokens");
            }
        }
    }

    #[test]
    fn other_matrices_are_the_same_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (arena, pool) = (Arena::new(), Pool::new(1).expect("threads"));
        let bits: Vec<u16> = (0..6 * 35).map(|i| i * 7).collect();
        let floats = bits.iter().map(|&bits| f32::from(bits)).collect();
        let matrices = [
            DenseMatrix::new(floats, 6, 35),
            DenseMatrix::of_bf16(bits.clone(), 6, 35),
            DenseMatrix::of_f16(bits, 6, 35),
        ];
        for matrix in matrices {
            let mut reader = reader(folder.path(), &written(|to| matrix.write(to)));
            let read = DenseMatrix::read(&mut reader).expect("a matrix");
            assert!(reader.is_at_end() && read.shape() == [6, 35] && read.memory_bytes() == matrix.memory_bytes());
            let (mut found, mut expected) = ([0.0; 35], [0.0; 35]);
            read.row(5, &mut found);
            matrix.row(5, &mut expected);
            assert_eq!(found, expected);
        }
        let factors: Vec<i16> = (0..40).collect();
        let matrix = LowRankMatrix::new(&factors[..10], vec![0.5, 2.0], &factors, &arena);
        let mut file = reader(folder.path(), &written(|to| matrix.write(to)));
        let read = LowRankMatrix::read(&mut file).expect("a matrix");
        let (mut found, mut expected) = ([0.0; 20], [0.0; 20]);
        read.add_row(3, &mut found);
        matrix.add_row(3, &mut expected);
        assert!(file.is_at_end() && read.shape() == [5, 20] && found == expected && found[1] != 0.0);
        for (dtype, outputs) in [(DType::Q4_0, 300), (DType::Q6K, 17), (DType::Iq2S, 3)] {
            let inputs = 512;
            let size = outputs * inputs / dtype.weights() * dtype.size();
            let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 97) as u8).collect();
            let matrix = BlockMatrix::pack(dtype, &bytes, [outputs, inputs], &arena, &pool).expect("packs");
            let mut file = reader(folder.path(), &written(|to| matrix.write(to)));
            let read = BlockMatrix::read(&mut file).expect("a matrix");
            assert!(file.is_at_end() && (read.outputs(), read.inputs(), read.dtype()) == (outputs, inputs, dtype));
            let (mut found, mut expected) = (vec![0.0; inputs], vec![0.0; inputs]);
            read.row(outputs - 1, &mut found);
            matrix.row(outputs - 1, &mut expected);
            assert_eq!(found, expected, "{dtype:?}");
        }
    }

    /// Whatever the bytes, there is no matrix, or one whose products stay inside the file.
    #[test]
    fn hostile_bytes_are_refused_or_harmless() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = written(|to| packed(100).write(to));
        let mut rng = SplitMix64::new(4);
        let mut refused = 0;
        for round in 0..1500 {
            let mut bytes = good.clone();
            let at = (rng.next_f64() * bytes.len() as f64) as usize;
            // The first lines and the heads of strips are where structure is.
            let at = if round % 3 == 0 { at % 1024 } else { at };
            bytes[at] = [0, 255, bytes[at] ^ 1, bytes[at] ^ 16][round % 4];
            if round % 10 == 0 {
                bytes.truncate(at / ALIGNMENT * ALIGNMENT);
            }
            if bytes.is_empty() {
                refused += 1;
                continue;
            }
            match PackedMatrix::read(&mut reader(folder.path(), &bytes)) {
                // Integers that no file has may overflow a sum, which is a panic in a debug build and nothing else.
                Some(matrix) => drop(std::panic::catch_unwind(|| [1, 7].map(|tokens| product(&matrix, tokens)))),
                None => refused += 1,
            }
        }
        assert!((300..1500).contains(&refused), "{refused}");
        for numbers in [[usize::MAX, 3, 0], [1, usize::MAX, usize::MAX], [100, 1, 0], [0, usize::MAX, 1]] {
            let bytes = written(|to| (0..4).try_for_each(|_| to.numbers(&numbers)));
            let file = || reader(folder.path(), &bytes);
            assert!(
                PackedMatrix::read(&mut file()).is_none() && LowRankMatrix::read(&mut file()).is_none(),
                "{numbers:?}"
            );
            for code in [DType::F32, DType::Bf16, DType::Q4_0, DType::Opaque] {
                let bytes = written(|to| to.numbers(&[code as usize, numbers[1], numbers[0]]));
                let file = || reader(folder.path(), &bytes);
                let empty = numbers[0] == 0 || numbers[1] == 0;
                assert!(empty || DenseMatrix::read(&mut file()).is_none(), "{code:?} {numbers:?}");
                assert!(BlockMatrix::read(&mut file()).is_none(), "{code:?} {numbers:?}");
            }
        }
    }

    #[test]
    fn two_strips_cannot_have_one_row() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = written(|to| packed(32).write(to));
        // The rows of the group of 16 are the numbers below 16 in some order; their steps, all the first, follow.
        let are_rows = |bytes: &[u8]| {
            let mut numbers: Vec<u16> = bytes.as_chunks().0.iter().map(|&pair| u16::from_ne_bytes(pair)).collect();
            numbers[..16].sort_unstable();
            numbers.iter().copied().eq((0..16).chain([0; 16]))
        };
        let at = good.windows(64).position(are_rows).expect("rows");
        let mut bytes = good.clone();
        bytes.copy_within(at + 2..at + 4, at);
        assert!(PackedMatrix::read(&mut reader(folder.path(), &good)).is_some());
        assert!(PackedMatrix::read(&mut reader(folder.path(), &bytes)).is_none());
    }
}
