//! A file under construction.

use std::error::Error;
use std::path::Path;

use impasto::File;
use impasto_codec::TensorHeader;
use impasto_codec::tile::{TileEncoder, encode_bytes};
use impasto_container::{
    Base, BaseLink, BaseUsage, LayerMark, Object, ObjectKind, Opaque, TensorMeta, UnitSlot, Writer,
};
use impasto_core::{DType, Mode, Place};

/// The result of a fallible step.
pub type Done = Result<(), Box<dyn Error>>;

/// A file under construction: objects in ascending order, and their units.
#[derive(Default)]
pub struct Set {
    objects: Vec<Object>,
    pub units: Vec<(UnitSlot, Mode, Vec<u8>)>,
    /// The ends of its layers; empty for no layer table.
    pub marks: Vec<LayerMark>,
    /// The file that it is a delta of.
    pub base: Option<Base>,
}

/// A matrix to be coded: dtype, rows and columns, rows and columns of a tile.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub dtype: DType,
    pub sides: (usize, usize),
    pub tile: (usize, usize),
}

impl Matrix {
    fn places(&self) -> Vec<Place> {
        let (rows, columns) = self.sides;
        let part = |length: usize, tile: usize, from: usize| from..(from + tile).min(length);
        let row = |r| (0..columns).step_by(self.tile.1).map(move |c| (r, c));
        let corners = (0..rows).step_by(self.tile.0).flat_map(row);
        corners
            .map(|(r, c)| Place { rows: part(rows, self.tile.0, r), columns: part(columns, self.tile.1, c) })
            .collect()
    }

    /// Returns the elements of each tile.
    pub fn parts(&self, elements: &[u8]) -> Vec<Vec<u8>> {
        self.places().iter().map(|place| self.cut(elements, self.dtype.size(), place)).collect()
    }

    /// Returns the part of `all` in a tile; `all` is row-major with `size` entries per element.
    fn cut<T: Copy>(&self, all: &[T], size: usize, place: &Place) -> Vec<T> {
        let row =
            |r| &all[(r * self.sides.1 + place.columns.start) * size..(r * self.sides.1 + place.columns.end) * size];
        place.rows.clone().flat_map(row).copied().collect()
    }
}

impl Set {
    /// Adds an object.
    pub fn object(&mut self, name: &str, kind: ObjectKind) {
        self.objects.push(Object { name: name.to_owned(), kind });
    }

    /// Lets the last object take something from that of `base` with a name, at a level.
    pub fn take(&mut self, base: &File, usage: BaseUsage, name: &str, level: u8) -> Done {
        let object = self.objects.last_mut().ok_or("no object")?;
        let reader = base.reader();
        let number = match &object.kind {
            ObjectKind::Asset { .. } => reader.find_asset(name),
            _ => reader.find_tensor(name),
        };
        let hash = number.and_then(|number| reader.object_hash(number, level)).ok_or("no such object")?;
        let link = Some(BaseLink { usage, level, hash, name: (name != object.name).then(|| name.to_owned()) });
        match &mut object.kind {
            ObjectKind::Asset { base, .. } => *base = link,
            ObjectKind::Tensor(meta) => meta.base = link,
            ObjectKind::Unknown(_) => return Err("an object of unknown class".into()),
        }
        Ok(())
    }

    /// Adds a unit in layer 0 to the last object.
    pub fn unit(&mut self, tile: usize, mode: Mode, bytes: Vec<u8>) {
        self.unit_above(0, tile, mode, bytes);
    }

    /// Adds a unit in any layer to the last object.
    pub fn unit_above(&mut self, layer: u8, tile: usize, mode: Mode, bytes: Vec<u8>) {
        let object = self.objects.len() as u32 - 1;
        let slot = UnitSlot { object, tile: tile as u32, layer, is_header: mode == Mode::TENSOR_HEADER };
        self.units.push((slot, mode, bytes));
    }

    /// Adds a tensor with two dims, without units.
    pub fn tensor(&mut self, name: &str, matrix: &Matrix) {
        let dims = vec![matrix.sides.0 as u64, (matrix.sides.1 * matrix.dtype.weights()) as u64];
        self.tensor_of(name, matrix, dims, 1, None);
    }

    /// Lets tiles of the last tensor be predicted from another one.
    pub fn refer(&mut self, to: usize) {
        if let Some(ObjectKind::Tensor(meta)) = self.objects.last_mut().map(|object| &mut object.kind) {
            meta.reference = Some(to as u32);
        }
    }

    /// Adds a tensor with any dims, possibly tied, without units.
    pub fn tensor_of(&mut self, name: &str, matrix: &Matrix, dims: Vec<u64>, split: usize, tied: Option<u32>) {
        let (tile_rows, tile_cols) = (matrix.tile.0 as u64, matrix.tile.1 as u64);
        let (dtype, reference) = (matrix.dtype, None);
        self.object(
            name,
            ObjectKind::Tensor(TensorMeta {
                dtype,
                opaque: None,
                dims,
                split,
                tile_rows,
                tile_cols,
                tied,
                reference,
                base: None,
            }),
        );
    }

    /// Adds an opaque tensor in tiles of `tile` bytes.
    pub fn opaque(&mut self, name: &str, dtype: &str, dims: Vec<u64>, tile: usize, content: &[u8]) -> Done {
        let opaque = Some(Opaque { name: dtype.to_owned(), bytes: content.len() as u64 });
        let tile_cols = tile as u64;
        let (dtype, reference) = (DType::Opaque, None);
        let meta =
            TensorMeta { dtype, opaque, dims, split: 0, tile_rows: 1, tile_cols, tied: None, reference, base: None };
        self.object(name, ObjectKind::Tensor(meta));
        self.bytes(&Matrix { dtype: DType::Opaque, sides: (1, content.len()), tile: (1, tile) }, content)
    }

    /// Adds units to the last tensor, in mode stored or zstd, whichever is smaller.
    pub fn bytes(&mut self, matrix: &Matrix, elements: &[u8]) -> Done {
        for (i, place) in matrix.places().iter().enumerate() {
            let part = matrix.cut(elements, matrix.dtype.size(), place);
            let (mode, unit) = encode_bytes(&part, matrix.dtype, 9)?;
            self.unit(i, mode, unit);
        }
        Ok(())
    }

    /// Adds a tensor in mode float.
    pub fn floats(
        &mut self,
        name: &str,
        matrix: &Matrix,
        header: &TensorHeader,
        segments: usize,
        elements: &[u8],
    ) -> Done {
        self.tensor(name, matrix);
        self.unit(0, Mode::TENSOR_HEADER, header.to_bytes());
        for (i, place) in matrix.places().iter().enumerate() {
            let part = matrix.cut(elements, matrix.dtype.size(), place);
            let unit = TileEncoder::new(header, segments).float(matrix.dtype, place, &part).ok_or("no escape")?;
            self.unit(i, Mode::FLOAT, unit);
        }
        Ok(())
    }

    /// Adds a tensor in mode lattice with integers `z`.
    pub fn lattice(&mut self, name: &str, matrix: &Matrix, header: &TensorHeader, segments: usize, z: &[i32]) -> Done {
        self.tensor(name, matrix);
        self.unit(0, Mode::TENSOR_HEADER, header.to_bytes());
        for (i, place) in matrix.places().iter().enumerate() {
            let unit =
                TileEncoder::new(header, segments).lattice(place, &matrix.cut(z, 1, place)).ok_or("no escape")?;
            self.unit(i, Mode::LATTICE, unit);
        }
        Ok(())
    }

    /// Adds a layer to the last tensor that refines the integers `below` to `z`.
    pub fn refinement(&mut self, layer: u8, matrix: &Matrix, header: &TensorHeader, below: &[i32], z: &[i32]) -> Done {
        self.unit_above(layer, 0, Mode::TENSOR_HEADER, header.to_bytes());
        for (i, place) in matrix.places().iter().enumerate() {
            let [below, z] = [below, z].map(|all| matrix.cut(all, 1, place));
            let unit = TileEncoder::new(header, usize::from(layer)).refinement(place, &below, &z).ok_or("no escape")?;
            self.unit_above(layer, i, Mode::REFINEMENT, unit);
        }
        Ok(())
    }

    /// Adds an exact layer to the last tensor, above integers `z` with these weights.
    pub fn exact(
        &mut self,
        layer: u8,
        matrix: &Matrix,
        header: &TensorHeader,
        z: &[i32],
        weights: &[u8],
        elements: &[u8],
    ) -> Done {
        self.unit_above(layer, 0, Mode::TENSOR_HEADER, header.to_bytes());
        let size = matrix.dtype.size();
        for (i, place) in matrix.places().iter().enumerate() {
            let [weights, elements] = [weights, elements].map(|all| matrix.cut(all, size, place));
            let z = matrix.cut(z, 1, place);
            let unit = TileEncoder::new(header, 2).exact(matrix.dtype, place, &z, &weights, &elements);
            self.unit_above(layer, i, Mode::EXACT, unit.ok_or("no escape")?);
        }
        Ok(())
    }

    /// Adds a layer of blocks of `dtype` to the last tensor, given the weights below.
    pub fn blocks(
        &mut self,
        layer: u8,
        matrix: &Matrix,
        header: &TensorHeader,
        dtype: DType,
        below: &[f32],
        blocks: &[u8],
    ) -> Done {
        self.unit_above(layer, 0, Mode::TENSOR_HEADER, header.to_bytes());
        let of_block = dtype.weights();
        let in_blocks = Matrix { sides: (matrix.sides.0, matrix.sides.1 / of_block), ..*matrix };
        for (i, place) in matrix.places().iter().enumerate() {
            let columns = place.columns.start / of_block..place.columns.end / of_block;
            let part = in_blocks.cut(blocks, dtype.size(), &Place { rows: place.rows.clone(), columns });
            let unit = TileEncoder::new(header, 2).blocks(place, &matrix.cut(below, 1, place), &part, 9)?;
            self.unit_above(layer, i, Mode::BLOCKS, unit.ok_or("no escape")?);
        }
        Ok(())
    }

    /// Sorts the units by layer, and sets the end of each layer.
    pub fn by_layer(&mut self) {
        self.units.sort_by_key(|(slot, ..)| slot.layer);
        let layers = self.units.iter().map(|(slot, ..)| slot.layer).max().unwrap_or(0);
        let end = |layer| self.units.partition_point(|(slot, ..)| slot.layer <= layer) as u32;
        let kld = |layer| (layer == layers).then_some(0.0);
        self.marks = (0..=layers).map(|layer| LayerMark { units: end(layer), kld: kld(layer) }).collect();
    }

    /// Writes the file.
    pub fn write(self, path: &Path) -> Done {
        let slots = self.units.iter().map(|(slot, ..)| *slot).collect();
        let mut writer = Writer::create_over(path, self.base, self.objects, slots, self.marks)?;
        for (_, mode, bytes) in &self.units {
            writer.push(*mode, bytes)?;
        }
        writer.finish()?;
        Ok(())
    }
}
