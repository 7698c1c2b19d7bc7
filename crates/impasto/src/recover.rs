//! Recovery of a file: multipliers of rows for each of its layers, trained toward the original, in a copy with the same
//! integers (SPEC 10.3, 12.4, 12.5). In a file of one layer the weights of norms are trained too. (With several, one of which may
//! be exact, the layers have them in common.)

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use impasto_codec::{IndexArray, TensorHeader};
use impasto_container::{LayerMark, Source, Summary};
use impasto_core::values::to_f32;
use impasto_core::{DType, Mode};
use impasto_encode::EncodeError;
use impasto_encode::recover::{NormWeights, RecoverWatch, RowMultipliers, Teacher, recover as train};
pub use impasto_encode::recover::{RecoverOptions, Recovering, check_memory};
use impasto_model::WeightSource;
use impasto_model::config::DecoderConfig;
use impasto_model::graph::{self, VectorSpec};
use thiserror::Error;

use crate::bases::Bases;
use crate::cut::Cut;
use crate::error::FileError;
use crate::file::File;
use crate::lattice::matrix_shape;
use crate::tensor::Tensor;
use crate::truncate::copy;
use crate::weights::FileWeights;

/// An error of recovery. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The coded file cannot be read, or the new one cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A network cannot be run, or the caller cancelled.
    #[error(transparent)]
    Train(#[from] EncodeError),
    /// The file is a delta.
    #[error("{0}: a delta cannot be recovered")]
    Delta(String),
    /// The file has multipliers already.
    #[error("{0}: the file has been recovered already")]
    Already(String),
    /// No row can have a multiplier.
    #[error("{0}: no linear layer of a block is on a free lattice, so there is nothing to recover")]
    Nothing(String),
}

/// What recovery did to a layer of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRecovery {
    /// The number of the layer in the layer table, from 1; 1 if there is none.
    pub layer: usize,
    /// Mean KL divergence from the original on the held-back text, in nats per token, without new multipliers.
    pub before: f64,
    /// The same with them.
    pub after: f64,
    /// Whether they are in the file, because that is less.
    pub is_kept: bool,
    /// Number of rows whose multiplier is not 0.
    pub rows: usize,
    /// Number of weights of norms that are not the original's.
    pub norms: usize,
}

/// What recovery did to a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovery {
    /// The layers that were trained, the coarsest first. After one that does not improve, finer ones are left alone.
    pub layers: Vec<LayerRecovery>,
    /// Number of tokens that were trained on, and of those that were held back.
    pub tokens: [usize; 2],
    /// The new file.
    pub summary: Summary,
}

/// The tensor headers of a file that have new multipliers.
#[derive(Default)]
struct Headers {
    /// By the number of the unit, with the multipliers of all rows.
    changed: HashMap<u32, (TensorHeader, Vec<i16>)>,
    /// The rows whose multipliers a coarser layer has settled.
    settled: HashMap<u32, Vec<bool>>,
}

/// Where the multipliers of a linear layer are: for each row, the unit of its tensor header, if it can have one.
struct Home {
    rows: RowMultipliers,
    units: Vec<Option<u32>>,
}

/// Trains multipliers for each layer of the file at `path` that has weights on a lattice, so that the file predicts what
/// `original` does on `tokens`, and writes a file with them to `output`. Layers whose divergence on held-back windows does not
/// fall stay as they are. Exact layers keep every bit.
///
/// # Errors
/// [`RecoverError`]. What was at `output` then stays.
pub fn recover(
    bases: &Bases,
    path: &Path,
    output: &Path,
    original: &dyn WeightSource,
    tokens: &[u32],
    options: &RecoverOptions,
    watch: &mut dyn FnMut(usize, Recovering) -> std::ops::ControlFlow<()>,
) -> Result<Recovery, RecoverError> {
    let file = bases.open(path)?;
    let name = || path.display().to_string();
    if file.reader().base().is_some() {
        return Err(RecoverError::Delta(name()));
    }
    let mut config = config(original)?;
    let network = graph::describe_source(original, &mut config).map_err(EncodeError::from)?;
    let linears: Vec<String> = network.blocks.iter().flat_map(|block| block.layers().map(|l| l.name.clone())).collect();
    let count = file.layers().len();
    let mut of_norms = BTreeMap::new();
    let mut headers = Headers::default();
    let mut teacher = None;
    let mut layers = Vec::new();
    for layer in 1..=count.max(1) {
        let mut cut = bases.open(path)?;
        if count > 0 {
            cut.cut(&Cut::Layer(layer))?;
        }
        let student = FileWeights::new(cut)?;
        let homes = headers.homes(&student, &linears)?;
        if !homes.iter().any(|home| home.rows.is_free.contains(&true)) {
            continue;
        }
        let watch: RecoverWatch = &mut |step| watch(layer, step);
        let teacher = match &mut teacher {
            Some(teacher) => teacher,
            none => none.insert(Teacher::new(original, tokens, options, watch)?),
        };
        let (rows, units): (Vec<_>, Vec<_>) = homes.into_iter().map(|home| (home.rows, home.units)).unzip();
        let (norms, tiles): (Vec<_>, Vec<_>) = norms(&student, network.vectors())?.into_iter().unzip();
        let recovered = train(teacher, &student, rows, norms.clone(), options, watch)?;
        let is_kept = recovered.is_better();
        let changed = |(new, old): (&NormWeights, &NormWeights)| {
            new.values.iter().zip(&old.values).filter(|(new, old)| new != old).count()
        };
        let changed = recovered.norms.iter().zip(&norms).map(changed).sum();
        let rows = recovered.trained();
        layers.push(LayerRecovery {
            layer,
            before: recovered.before,
            after: recovered.after,
            is_kept,
            rows,
            norms: changed,
        });
        if !is_kept {
            break;
        }
        for ((unit, new), old) in tiles.iter().zip(&recovered.norms).zip(&norms) {
            if new.values != old.values {
                of_norms.insert(*unit, new.code()?);
            }
        }
        recovered.rows.iter().zip(&units).for_each(|(rows, units)| headers.settle(rows, units));
    }
    let Some(teacher) = teacher else { return Err(RecoverError::Nothing(name())) };
    let keep = vec![true; file.reader().units().len()];
    // Divergences that were measured are those of the layers before.
    let marks = file.reader().marks().iter().map(|mark| LayerMark { kld: None, ..*mark }).collect();
    of_norms.extend(headers.units());
    let summary = copy(&file, &keep, marks, &of_norms, output)?;
    Ok(Recovery { layers, tokens: teacher.tokens(), summary })
}

fn config(original: &dyn WeightSource) -> Result<DecoderConfig, EncodeError> {
    let missing =
        impasto_model::ModelError::MissingAsset { name: "config.json", why: "a model cannot be run without it" };
    Ok(DecoderConfig::from_json(&original.asset("config.json").ok_or(missing)?)?)
}

/// Returns whether another object depends on the tensor with this number.
fn is_shared<S: Source>(file: &File<S>, number: u32) -> bool {
    let others = (0..file.reader().objects().len() as u32).filter(|&other| other != number);
    let mut uses = others
        .filter(|&other| file.reader().resolve(other) == number || file.reader().reference_of(other) == Some(number));
    uses.next().is_some()
}

/// Returns the norms of a network that can be trained, in a file of one layer: those whose weights are floats in one tile. Each
/// comes with the unit of its tile.
fn norms<'a, S: Source + 'static>(
    student: &FileWeights<S>,
    specs: impl Iterator<Item = &'a VectorSpec>,
) -> Result<Vec<(NormWeights, u32)>, RecoverError> {
    let (file, reader) = (student.file(), student.file().reader());
    let mut norms = Vec::new();
    if reader.units().iter().any(|unit| unit.layer > 0) {
        return Ok(norms);
    }
    for (number, spec) in specs.enumerate() {
        let Some(object) = student.unchanged(&spec.name).filter(|&object| !is_shared(file, object)) else { continue };
        let tensor = file.object(object)?;
        let [unit] = reader.units_of(object).map_or(&[][..], |units| units.tiles) else { continue };
        let entry = &reader.units()[*unit as usize];
        let is_float = matches!(tensor.dtype(), DType::Bf16 | DType::F16 | DType::F32);
        let is_plain = matches!(entry.mode, Mode::STORED | Mode::ZSTD | Mode::FLOAT | Mode::DIGITS);
        if !is_float || !is_plain || tensor.shape() != [spec.width as u64] {
            continue;
        }
        let mut values = Vec::new();
        to_f32(tensor.dtype(), &tensor.bytes()?, &mut values);
        if values.iter().all(|w| w.is_finite()) {
            let (plus_one, dtype, bytes) = (spec.plus_one, tensor.dtype(), entry.length.into());
            norms.push((NormWeights { number, plus_one, dtype, bytes, values }, *unit));
        }
    }
    Ok(norms)
}

impl Headers {
    /// Finds the tensor headers of the rows of linear layers, at the levels at which they are read.
    fn homes<S: Source + 'static>(
        &mut self,
        student: &FileWeights<S>,
        names: &[String],
    ) -> Result<Vec<Home>, RecoverError> {
        let file = student.file();
        let mut homes = Vec::new();
        for name in names {
            let Some(number) = student.unchanged(name).filter(|&number| !is_shared(file, number)) else { continue };
            let tensor = file.object(number)?;
            if let Some([rows, _]) = matrix_shape(&tensor) {
                homes.push(self.home(file, &tensor, number, name, rows)?);
            }
        }
        Ok(homes)
    }

    fn home<S: Source>(
        &mut self,
        file: &File<S>,
        tensor: &Tensor<'_, S>,
        number: u32,
        name: &str,
        rows: usize,
    ) -> Result<Home, RecoverError> {
        let mut home = Home {
            rows: RowMultipliers { name: name.to_owned(), values: vec![0; rows], is_free: vec![false; rows] },
            units: vec![None; rows],
        };
        let (reader, height) = (file.reader(), tensor.matrix().tile_rows().max(1) as usize);
        let across = tensor.matrix().tiles_across().max(1) as usize;
        let Some(units) = reader.units_of(number) else { return Ok(home) };
        let tile_rows = (0..rows).step_by(height).zip(units.tiles.chunks(across));
        for (first, tiles) in tile_rows {
            if tiles.iter().any(|&tile| reader.units()[tile as usize].mode != Mode::LATTICE) {
                continue;
            }
            let unit = match tensor.level(first as u64) {
                0 => units.header,
                level => reader.layer_of(number, level).map(|layer| layer.header),
            };
            let is_plain = match units.header {
                Some(base) => self.header(file, tensor, base)?.is_some_and(|(header, _)| header.low_rank().is_none()),
                None => false,
            };
            let Some(unit) = unit.filter(|_| is_plain) else { continue };
            let Some((_, multipliers)) = self.header(file, tensor, unit)? else { continue };
            let values = multipliers[first..rows.min(first + height)].to_vec();
            let settled = self.settled.get(&unit);
            for (row, value) in (first..).zip(values) {
                home.units[row] = Some(unit);
                home.rows.values[row] = value;
                home.rows.is_free[row] = settled.is_none_or(|settled| !settled[row]);
            }
        }
        Ok(home)
    }

    /// Returns the tensor header in a unit, and its multipliers; `None` if it can have none.
    fn header<S: Source>(
        &mut self,
        file: &File<S>,
        tensor: &Tensor<'_, S>,
        unit: u32,
    ) -> Result<Option<&mut (TensorHeader, Vec<i16>)>, RecoverError> {
        let (rows, columns) = (tensor.matrix().rows(), tensor.matrix().cols());
        if let std::collections::hash_map::Entry::Vacant(entry) = self.changed.entry(unit) {
            let bytes = file.reader().read_unit(unit).map_err(FileError::from)?;
            let header = TensorHeader::read(&bytes, tensor.dtype(), rows, columns);
            let mut header = header.map_err(|error| file.broken(unit, error))?;
            if header.multipliers().is_some() {
                return Err(RecoverError::Already(file.reader().name().to_owned()));
            }
            if header.groups().is_some() || !header.set_multipliers(None) {
                return Ok(None);
            }
            entry.insert((header, vec![0; rows as usize]));
        }
        Ok(self.changed.get_mut(&unit))
    }

    /// Settles the multipliers that were trained.
    fn settle(&mut self, trained: &RowMultipliers, units: &[Option<u32>]) {
        for (row, unit) in units.iter().enumerate().filter(|(row, _)| trained.is_free[*row]) {
            let Some((_, multipliers)) = unit.and_then(|unit| self.changed.get_mut(&unit)) else { continue };
            multipliers[row] = trained.values[row];
            let settled = unit.map(|unit| self.settled.entry(unit).or_insert_with(|| vec![false; units.len()]));
            settled.into_iter().for_each(|settled| settled[row] = true);
        }
    }

    /// Returns the units that are to be replaced.
    fn units(mut self) -> BTreeMap<u32, (Mode, Vec<u8>)> {
        let with = |(unit, (header, multipliers)): (u32, &mut (TensorHeader, Vec<i16>))| {
            let multipliers = Some(IndexArray::new(std::mem::take(multipliers)));
            header.set_multipliers(multipliers.filter(|array| *array != IndexArray::Constant(0)));
            (unit, (Mode::TENSOR_HEADER, header.to_bytes()))
        };
        let settled = &self.settled;
        let changed = self.changed.iter_mut().filter(|(unit, _)| settled.contains_key(unit));
        changed.map(|(&unit, entry)| with((unit, entry))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_coarser_layer_settled_stays() {
        let mut headers = Headers::default();
        let header = |_| {
            let body = impasto_codec::Body::Lattice(impasto_codec::Steps::new(1.0));
            let (row_classes, column_classes) = (IndexArray::Constant(0), IndexArray::Constant(0));
            let shape = impasto_codec::Shape::Parametric(0);
            (TensorHeader { shape, plane: 0, row_classes, column_classes, body }, vec![0; 3])
        };
        headers.changed = (4..6).map(|unit| (unit, header(unit))).collect();
        let rows = |values: [i16; 3], is_free: [bool; 3]| RowMultipliers {
            name: "w".into(),
            values: values.into(),
            is_free: is_free.into(),
        };
        headers.settle(&rows([5, 6, 7], [true, true, false]), &[Some(4), None, Some(4)]);
        assert_eq!(headers.settled[&4], [true, false, false]);
        headers.settle(&rows([5, 8, 0], [false, true, true]), &[Some(4), Some(5), Some(5)]);
        assert_eq!((&headers.changed[&4].1[..], &headers.changed[&5].1[..]), (&[5, 0, 0][..], &[0, 8, 0][..]));
        let units = headers.units();
        let read = |unit: u32| TensorHeader::read(&units[&unit].1, impasto_core::DType::Bf16, 3, 9).expect("reads");
        assert_eq!(read(5).multipliers(), Some(&IndexArray::new(vec![0, 8, 0])));
    }
}
