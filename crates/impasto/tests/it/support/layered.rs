//! Layered files assembled by hand from codec and container, with the weights that they must have at every level.

use std::path::Path;

use impasto_codec::tables::{Frequencies, SYMBOLS, TOTAL};
use impasto_codec::tile::TileEncoder;
use impasto_codec::{Body, IndexArray, Kind, Refinement, Shape, Steps, TensorHeader};
use impasto_container::{LayerMark, Matrix, Object, ObjectKind, Summary, TensorMeta, UnitSlot, Writer};
use impasto_core::{
    DType, Mode, Place,
    lattice::{reconstruct_row, scale},
};

use super::{Random, Tensor};

/// The largest tile.
pub const TILE: (u64, u64) = (16, 32);

/// A unit in its slot.
#[derive(Clone, Debug)]
pub struct Unit {
    pub slot: UnitSlot,
    pub mode: Mode,
    pub bytes: Vec<u8>,
}

/// A file with its units in order.
#[derive(Clone, Default)]
pub struct Layered {
    pub objects: Vec<Object>,
    pub units: Vec<Unit>,
    pub marks: Vec<LayerMark>,
    /// For each object, its elements at each level, the base first; a single entry if it has no layers.
    pub levels: Vec<Vec<Vec<u8>>>,
}

/// Returns tables in which all symbols are equally likely.
fn even(tables: usize) -> Shape {
    Shape::Explicit(vec![Frequencies([(TOTAL as usize / SYMBOLS) as u16; SYMBOLS]); tables])
}

/// Returns the elements of a tile, with `size` entries each.
fn cut<T: Copy>(all: &[T], columns: usize, size: usize, place: &Place) -> Vec<T> {
    let row = |r: usize| &all[(r * columns + place.columns.start) * size..(r * columns + place.columns.end) * size];
    place.rows.clone().flat_map(row).copied().collect()
}

impl Layered {
    fn add(&mut self, name: &str, kind: ObjectKind) -> u32 {
        self.objects.push(Object { name: name.to_owned(), kind });
        self.objects.len() as u32 - 1
    }

    fn unit(&mut self, object: u32, tile: usize, layer: u8, mode: Mode, bytes: Vec<u8>) {
        let slot = UnitSlot { object, tile: tile as u32, layer, is_header: mode == Mode::TENSOR_HEADER };
        self.units.push(Unit { slot, mode, bytes });
    }

    /// Adds a stored asset.
    pub fn asset(&mut self, name: &str, bytes: &[u8]) {
        let object = self.add(name, ObjectKind::Asset { length: bytes.len() as u64, piece: 1 << 20, base: None });
        self.unit(object, 0, 0, Mode::STORED, bytes.to_vec());
        self.levels.push(vec![bytes.to_vec()]);
    }

    /// Adds a stored tensor in tiles of 16 x 32.
    pub fn stored(&mut self, tensor: &Tensor) {
        let meta = meta(tensor, None);
        let object = self.add(&tensor.name, ObjectKind::Tensor(meta));
        let (matrix, columns) = matrix(tensor);
        for (i, place) in places(&matrix).iter().enumerate() {
            let part = cut(&tensor.bytes, columns, tensor.dtype.size(), place);
            self.unit(object, i, 0, Mode::STORED, part);
        }
        self.levels.push(vec![tensor.bytes.clone()]);
    }

    /// Adds a tensor that is tied to object `to`.
    pub fn tied(&mut self, name: &str, to: u32) {
        let ObjectKind::Tensor(original) = self.objects[to as usize].kind.clone() else { panic!("a tensor") };
        self.add(name, ObjectKind::Tensor(TensorMeta { tied: Some(to), ..original }));
        self.levels.push(self.levels[to as usize].clone());
    }

    /// Adds a tensor on a lattice of `step`, refined by `factors` and, if `exact`, with an exact layer. The tiles in
    /// `stored` are stored instead.
    pub fn lattice(&mut self, tensor: &Tensor, step: f32, factors: &[u8], exact: bool, stored: &[usize]) {
        let object = self.add(&tensor.name, ObjectKind::Tensor(meta(tensor, None)));
        let (matrix, columns) = matrix(tensor);
        let (rows, places) = (matrix.rows() as usize, places(&matrix));
        let is_stored = |r: usize, c: usize| {
            places.iter().enumerate().any(|(i, p)| stored.contains(&i) && p.rows.contains(&r) && p.columns.contains(&c))
        };
        let size = tensor.dtype.size();
        let mut random = Random(object.into());
        let row_steps: Vec<i16> = (0..rows).map(|_| random.below(9) as i16 - 4).collect();
        let column_steps: Vec<i16> = (0..columns).map(|_| random.below(9) as i16 - 4).collect();
        let values = tensor.values();
        let mut step = step;
        let mut below: Vec<i32> = vec![];
        let mut levels: Vec<Vec<u8>> = vec![];
        for (layer, factor) in [None].into_iter().chain(factors.iter().map(|&f| Some(f))).enumerate() {
            step /= f32::from(factor.unwrap_or(1));
            let scales: Vec<f32> = column_steps.iter().map(|&i| scale(i.into())).collect();
            let row = |r: usize| step * scale(row_steps[r].into());
            let z: Vec<i32> = (0..rows * columns)
                .map(|i| (values[i] / (row(i / columns) * scales[i % columns])).round() as i32)
                .collect();
            let offset = 3 * layer as u8;
            let mut elements = vec![0; z.len() * size];
            for (r, out) in elements.chunks_mut(columns * size).enumerate() {
                reconstruct_row(tensor.dtype, &z[r * columns..][..columns], offset, &scales, row(r), out);
            }
            for i in (0..z.len()).filter(|i| is_stored(i / columns, i % columns)) {
                elements[i * size..][..size].copy_from_slice(&tensor.bytes[i * size..][..size]);
            }
            let (kind, body) = match factor {
                None => {
                    let (rows, columns) = (IndexArray::new(row_steps.clone()), IndexArray::new(column_steps.clone()));
                    (
                        Kind::Lattice,
                        Body::Lattice(Steps { offset, rows: Some(rows), columns: Some(columns), ..Steps::new(step) }),
                    )
                }
                Some(factor) => {
                    (Kind::Refinement, Body::Refinement(Refinement { offset, ..Refinement::new(factor, step) }))
                }
            };
            let header = header(kind, body, random.below(4) as i16);
            self.unit(object, 0, layer as u8, Mode::TENSOR_HEADER, header.to_bytes());
            let encoder = TileEncoder::new(&header, 1 + layer);
            for (i, place) in places.iter().enumerate() {
                let part = |z: &[i32]| cut(z, columns, 1, place);
                let (mode, unit) = match (stored.contains(&i), factor) {
                    (true, Some(_)) => continue,
                    (true, None) => (Mode::STORED, Some(cut(&tensor.bytes, columns, size, place))),
                    (false, None) => (Mode::LATTICE, encoder.lattice(place, &part(&z))),
                    (false, Some(_)) => (Mode::REFINEMENT, encoder.refinement(place, &part(&below), &part(&z))),
                };
                self.unit(object, i, layer as u8, mode, unit.expect("codes"));
            }
            below = z;
            levels.push(elements);
        }
        if exact {
            let layer = factors.len() as u8 + 1;
            let header = header(Kind::Exact, Body::Exact, 500);
            self.unit(object, 0, layer, Mode::TENSOR_HEADER, header.to_bytes());
            let encoder = TileEncoder::new(&header, 1);
            let predicted = levels.last().expect("the base").clone();
            for (i, place) in places.iter().enumerate().filter(|(i, _)| !stored.contains(i)) {
                let part = |elements: &[u8]| cut(elements, columns, size, place);
                let (predicted, elements) = (part(&predicted), part(&tensor.bytes));
                let unit = encoder.exact(tensor.dtype, place, &cut(&below, columns, 1, place), &predicted, &elements);
                self.unit(object, i, layer, Mode::EXACT, unit.expect("codes"));
            }
            levels.push(tensor.bytes.clone());
        }
        self.levels.push(levels);
    }

    /// Shuffles the units above the base: tile rows stay together, and coarser layers and tensor headers precede what
    /// needs them.
    pub fn shuffle(&mut self, seed: u64) {
        let mut random = Random(seed);
        let across = |object: u32| self.objects[object as usize].matrix().expect("fits").expect("known").tiles_across();
        let (mut base, mut above): (Vec<Unit>, Vec<Unit>) = self.units.drain(..).partition(|unit| unit.slot.layer == 0);
        // A key for each tile row and layer, larger than in the layer below; that of a tensor header is the least of
        // its layer.
        let mut keys = std::collections::HashMap::new();
        for unit in above.iter().filter(|unit| !unit.slot.is_header) {
            let UnitSlot { object, layer, tile, .. } = unit.slot;
            let row = tile / across(object);
            let below = keys.get(&(object, layer - 1, row)).copied().unwrap_or(0);
            let key = *keys.entry((object, layer, row)).or_insert(below + 1 + random.below(150));
            let header = keys.entry((object, layer, u32::MAX)).or_insert(key);
            *header = key.min(*header);
        }
        above.sort_by_key(|unit| {
            let UnitSlot { object, layer, tile, is_header } = unit.slot;
            let row = if is_header { u32::MAX } else { tile / across(object) };
            (keys[&(object, layer, row)], object, layer, !is_header, tile)
        });
        base.append(&mut above);
        self.units = base;
    }

    /// Adds marks at the base, at all units, and at `between` evenly spaced positions between these.
    pub fn mark(&mut self, between: u32) {
        let base = self.units.iter().filter(|unit| unit.slot.layer == 0).count() as u32;
        let above = self.units.len() as u32 - base;
        let units = |i: u32| base + above * i / (between + 1);
        let kld = |i: u32| i.is_multiple_of(2).then_some(1.0 / (i + 1) as f32);
        self.marks = (0..between + 2).map(|i| LayerMark { units: units(i), kld: kld(i) }).collect();
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Summary {
        let slots = self.units.iter().map(|unit| unit.slot).collect();
        let mut writer = Writer::create(path, self.objects.clone(), slots, self.marks.clone()).expect("a legal file");
        self.units.iter().for_each(|unit| writer.push(unit.mode, &unit.bytes).expect("writes"));
        writer.finish().expect("a legal file")
    }

    /// Returns the bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(&folder.path().join("a"));
        std::fs::read(folder.path().join("a")).expect("reads")
    }

    /// Returns the level of each tile row of an object by SPEC 12.3, given the present units, for which `there` is
    /// true; `None` if a unit of the base is absent.
    pub fn rows_at(&self, object: u32, there: &dyn Fn(usize) -> bool) -> Option<Vec<usize>> {
        let own = self.objects[object as usize].tied().unwrap_or(object);
        let of_object = || self.units.iter().enumerate().filter(move |(_, unit)| unit.slot.object == own);
        let complete = of_object().filter(|(_, unit)| unit.slot.layer == 0).all(|(i, _)| there(i));
        let matrix = self.objects[own as usize].matrix().expect("fits").expect("known");
        let (across, tiles) = (matrix.tiles_across(), matrix.tile_count());
        let level = |row: u32| {
            let of_row = move |unit: &Unit| !unit.slot.is_header && unit.slot.tile / across == row;
            let lattice = of_object().filter(|(_, unit)| of_row(unit) && unit.mode == Mode::LATTICE).count();
            let reached = |layer: usize| {
                let of_layer =
                    || of_object().filter(move |(i, unit)| usize::from(unit.slot.layer) == layer && there(*i));
                of_layer().any(|(_, unit)| unit.slot.is_header)
                    && of_layer().filter(|(_, unit)| of_row(unit)).count() == lattice
            };
            if lattice == 0 { 0 } else { (1..).take_while(|&layer| reached(layer)).count() }
        };
        complete.then(|| (0..tiles / across.max(1)).map(level).collect())
    }

    /// Returns the elements of an object at these levels of its tile rows.
    pub fn elements(&self, object: u32, rows: &[usize]) -> Vec<u8> {
        let levels = &self.levels[object as usize];
        let matrix = self.objects[object as usize].matrix().expect("fits").expect("known");
        let bytes = levels[0].len() / (matrix.rows().max(1) as usize);
        let mut out = Vec::new();
        for (row, &level) in rows.iter().enumerate() {
            let height = matrix.tile_rows() as usize;
            let range = row * height * bytes..((row + 1) * height * bytes).min(levels[0].len());
            out.extend_from_slice(&levels[level.min(levels.len() - 1)][range]);
        }
        out
    }
}

/// Returns a tensor header with even tables, and row and column classes near `class`.
fn header(kind: Kind, body: Body, class: i16) -> TensorHeader {
    let tables = match kind {
        Kind::Float => 4,
        Kind::Lattice | Kind::Refinement => 24,
        Kind::Trellis | Kind::TrellisRefinement => 48,
        Kind::Exact => 32,
    };
    let plane = if kind == Kind::Exact { 5 } else { 0 };
    let columns = IndexArray::Constant(1);
    TensorHeader { shape: even(tables), plane, row_classes: IndexArray::Constant(class), column_classes: columns, body }
}

fn meta(tensor: &Tensor, tied: Option<u32>) -> TensorMeta {
    let split = tensor.shape.len().min(1);
    let (tile_rows, tile_cols) = TILE;
    TensorMeta {
        dtype: tensor.dtype,
        opaque: None,
        dims: tensor.shape.clone(),
        split,
        tile_rows,
        tile_cols,
        tied,
        reference: None,
        base: None,
    }
}

fn matrix(tensor: &Tensor) -> (Matrix, usize) {
    let object = Object { name: tensor.name.clone(), kind: ObjectKind::Tensor(meta(tensor, None)) };
    let matrix = object.matrix().expect("fits").expect("known");
    (matrix, matrix.cols() as usize)
}

fn places(matrix: &Matrix) -> Vec<Place> {
    (0..matrix.tile_count()).filter_map(|tile| Some(Place::from(matrix.tile(tile)?))).collect()
}

/// A file with tensors of all float dtypes and different numbers of layers, an asset, a vector and a tied tensor; marks
/// at the base, at the end, and between.
pub fn sample() -> Layered {
    let mut file = Layered::default();
    file.asset("config.json", b"{}");
    file.lattice(&Tensor::weights("attn.q", DType::Bf16, &[70, 90], 1), 0.05, &[3, 4], true, &[]);
    file.lattice(&Tensor::weights("mlp.down", DType::F16, &[40, 70], 2), 0.04, &[5], false, &[4]);
    file.lattice(&Tensor::weights("mlp.up", DType::F32, &[33, 40], 3), 0.03, &[2], true, &[0, 1]);
    file.stored(&Tensor::weights("norm", DType::F32, &[50], 4));
    file.lattice(&Tensor::weights("single", DType::Bf16, &[20, 33], 5), 0.02, &[], false, &[]);
    file.tied("tied", 1);
    file.shuffle(7);
    file.mark(3);
    file
}
