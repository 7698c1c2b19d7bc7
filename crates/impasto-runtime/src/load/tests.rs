use std::ops::Range;

use impasto_core::DType;
use impasto_model::{Failure, HalfTensor, LatticeRows, LatticeTensor};

use super::*;

const INPUTS: usize = 40;

/// A source in which the name of a matrix says what it is: a kind, and its number of rows. Each row is a tile row, whose
/// weights are its number plus one.
struct Named;

/// The kinds, in the order of their letters.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Integers.
    Lattice,
    /// Integers, the last of which are too large to be packed.
    Large,
    /// Integers that cannot be read.
    Broken,
    /// Floats of 16 bits.
    Halves,
    /// Floats of 32 bits.
    Floats,
}

#[derive(Clone, Copy)]
struct Rows {
    kind: Kind,
    count: usize,
}

impl Rows {
    fn of(name: &str) -> Rows {
        let (kind, count) = name.split_at(1);
        let kinds = [Kind::Lattice, Kind::Large, Kind::Broken, Kind::Halves, Kind::Floats];
        let kind = "ilbhf".find(kind).map_or(Kind::Floats, |at| kinds[at]);
        Rows { kind, count: count.parse().unwrap_or(0) }
    }

    fn each(&self) -> Vec<Range<usize>> {
        (0..self.count).map(|row| row..row + 1).collect()
    }
}

impl LatticeTensor for Rows {
    fn shape(&self) -> [usize; 2] {
        [self.count, INPUTS]
    }

    fn column_steps(&self) -> &[f32] {
        &[1.0; INPUTS]
    }

    fn column_widths(&self) -> &[i32] {
        &[0; INPUTS]
    }

    fn tile_rows(&self) -> Vec<Range<usize>> {
        self.each()
    }

    fn read(&self, tile_row: usize, out: &mut LatticeRows) -> Result<(), Failure> {
        let last = tile_row + 1 == self.count;
        if self.kind == Kind::Broken && last {
            return Err("it is damaged".into());
        }
        let z = if self.kind == Kind::Large && last { 1 << 30 } else { tile_row as i32 + 1 };
        *out = LatticeRows { integers: vec![z; INPUTS], row_steps: vec![1.0], row_widths: vec![0], offset: 0 };
        Ok(())
    }
}

impl HalfTensor for Rows {
    fn dtype(&self) -> DType {
        DType::Bf16
    }

    fn shape(&self) -> [usize; 2] {
        [self.count, INPUTS]
    }

    fn tile_rows(&self) -> Vec<Range<usize>> {
        self.each()
    }

    fn read(&self, tile_row: usize, out: &mut [u16]) -> Result<(), Failure> {
        out.fill(((tile_row as f32 + 1.0).to_bits() >> 16) as u16);
        Ok(())
    }
}

impl WeightSource for Named {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        Some(vec![Rows::of(name).count as u64, INPUTS as u64])
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        Ok((0..Rows::of(name).count).flat_map(|row| [row as f32 + 1.0; INPUTS]).collect())
    }

    fn asset(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn lattice(&self, name: &str) -> Result<Option<Box<dyn LatticeTensor + '_>>, Failure> {
        let rows = Rows::of(name);
        let is_lattice = matches!(rows.kind, Kind::Lattice | Kind::Large | Kind::Broken);
        Ok(is_lattice.then(|| Box::new(rows) as _))
    }

    fn halves(&self, name: &str) -> Result<Option<Box<dyn HalfTensor + '_>>, Failure> {
        let rows = Rows::of(name);
        Ok((rows.kind == Kind::Halves).then(|| Box::new(rows) as _))
    }
}

type Loaded = Result<(Vec<Matrix>, Vec<LoadWarning>)>;

fn load(names: &[&str], threads: usize, limit: usize) -> Loaded {
    let (pool, arena, budget) = (Pool::new(threads).expect("threads"), Arena::new(), Budget::new(limit, 0));
    let loader = MatrixLoader::new(&Named, Residence::Packed, &pool, &arena, &budget);
    let wanted: Vec<Wanted> = names.iter().map(|name| Wanted { name, shape: [Rows::of(name).count, INPUTS] }).collect();
    let matrices = loader.load(&wanted)?;
    Ok((matrices, loader.finish().1))
}

#[test]
fn what_cannot_be_packed_is_said() {
    let (matrices, warnings) = load(&["i2", "l2"], 1, usize::MAX).expect("loads");
    assert!(matches!(&matrices[..], [Matrix::Packed(_), Matrix::Dense(_)]));
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!((&*warning.tensor, warning.extra_bytes), ("l2", 3 * 2 * INPUTS as u64));
    assert!(warning.to_string().contains("do not fit 32 bits"), "{warning}");
}

/// Every matrix has its weights and its place, however many workers there are.
#[test]
fn matrices_of_all_kinds_load_together() {
    let names = ["h9", "i1", "i7", "f3", "l5", "i0", "h1", "h0", "i30", "l1", "f1", "i2", "h4"];
    for threads in [1, 2, 3, 8] {
        for _ in 0..20 {
            let (matrices, warnings) = load(&names, threads, usize::MAX).expect("loads");
            for (name, matrix) in names.iter().zip(&matrices) {
                let rows = Rows::of(name);
                assert_eq!(matches!(matrix, Matrix::Packed(_)), rows.kind == Kind::Lattice, "{name}");
                for row in 0..rows.count {
                    let mut weights = [0.0; INPUTS];
                    match matrix {
                        Matrix::Packed(packed) => packed.row(row, &mut weights),
                        Matrix::Dense(dense) => dense.row(row, &mut weights),
                        _ => panic!("{name}"),
                    }
                    assert_eq!(weights, [row as f32 + 1.0; INPUTS], "{name}, {threads} threads");
                }
            }
            let named: Vec<&str> = warnings.iter().map(|warning| &*warning.tensor).collect();
            assert_eq!(named, ["l5", "l1"]);
        }
    }
}

#[test]
fn damage_and_limits_end_the_load() {
    for threads in [1, 3] {
        let error = load(&["i9", "h3", "b4", "i9"], threads, usize::MAX).err().expect("damage");
        assert_eq!(error.to_string(), "tensor b4: it is damaged");
        let error = load(&["h3", "h3", "h3"], threads, 3 * 3 * INPUTS).err().expect("a limit");
        assert!(matches!(error, ModelError::MemoryLimit { limit: 360, .. }), "{error}");
    }
}
