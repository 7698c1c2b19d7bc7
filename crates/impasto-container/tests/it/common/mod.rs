//! Builds test files, byte by byte and with the writer.

pub mod random;
pub mod raw;

use impasto_container::unit::unit_hash;
use impasto_container::{
    Header, LayerMark, Limits, Manifest, Object, ObjectKind, Places, Reader, TensorMeta, UnitEntry, UnitSlot, Writer,
};
use impasto_core::{DType, Mode};

/// The content of a file: objects, and units in order.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub objects: Vec<Object>,
    pub units: Vec<Unit>,
    pub layers: Vec<LayerMark>,
}

/// A unit to be written.
#[derive(Clone, Debug)]
pub struct Unit {
    pub object: u32,
    pub tile: u32,
    pub layer: u8,
    pub mode: Mode,
    pub bytes: Vec<u8>,
}

impl Content {
    pub fn manifest(&self) -> Manifest {
        let units = self.units.iter().map(|unit| UnitEntry {
            object: unit.object,
            tile: unit.tile,
            mode: unit.mode,
            layer: unit.layer,
            length: unit.bytes.len() as u32,
            hash: unit_hash(&unit.bytes),
        });
        Manifest { objects: self.objects.clone(), units: units.collect(), layers: self.layers.clone(), base: None }
    }

    pub fn slots(&self) -> Vec<UnitSlot> {
        let slot = |unit: &Unit| UnitSlot {
            object: unit.object,
            tile: unit.tile,
            layer: unit.layer,
            is_header: unit.mode == Mode::TENSOR_HEADER,
        };
        self.units.iter().map(slot).collect()
    }

    /// Returns the bytes of the file, built without the writer.
    pub fn to_file(&self) -> Vec<u8> {
        let manifest = self.manifest();
        let bytes = manifest.to_bytes();
        let places = Places::new(bytes.len() as u64, manifest.units.iter().map(|unit| unit.length)).unwrap();
        let mut file = with_header(&bytes, places.end());
        for (i, unit) in self.units.iter().enumerate() {
            file.resize(places.unit(i as u32).unwrap().start as usize, 0);
            file.extend(&unit.bytes);
        }
        file
    }

    /// Writes the file with the writer.
    pub fn write(&self, path: &std::path::Path) -> impasto_container::Summary {
        let mut writer = Writer::create(path, self.objects.clone(), self.slots(), self.layers.clone()).unwrap();
        self.units.iter().for_each(|unit| writer.push(unit.mode, &unit.bytes).unwrap());
        writer.finish().unwrap()
    }
}

/// Returns a header for `manifest`, followed by the manifest.
pub fn with_header(manifest: &[u8], file_length: u64) -> Vec<u8> {
    let header = Header {
        minor: 0,
        manifest_length: manifest.len() as u64,
        file_length,
        root: *blake3::hash(manifest).as_bytes(),
    };
    [header.to_bytes(), manifest.to_vec()].concat()
}

/// Returns a small file with one of each: an asset in two pieces, a tensor with a tensor header, one tied to it, a
/// stored tensor, tiles in unknown modes in layer 0 and above, and an object of unknown class with a unit.
pub fn small() -> Content {
    let object = |name: &str, kind| Object { name: name.into(), kind };
    let tensor = |dtype, dims: &[u64], split, tile_rows, tile_cols, tied| {
        ObjectKind::Tensor(TensorMeta {
            dtype,
            opaque: None,
            dims: dims.to_vec(),
            split,
            tile_rows,
            tile_cols,
            tied,
            reference: None,
            base: None,
        })
    };
    let objects = vec![
        object("config.json", ObjectKind::Asset { length: 7, piece: 4, base: None }),
        object("embed.weight", tensor(DType::Bf16, &[3, 40], 1, 2, 32, None)),
        object("embed_out.weight", tensor(DType::Bf16, &[3, 40], 1, 3, 64, Some(1))),
        object("norm", tensor(DType::F32, &[5], 0, 1, 5, None)),
        object("odd", tensor(DType::I64, &[], 0, 1, 1, None)),
        object("void", tensor(DType::U8, &[0, 4], 1, 1, 32, None)),
        object("later", ObjectKind::Unknown(9)),
    ];
    let unit = |object, tile, layer, mode, bytes: &[u8]| Unit { object, tile, layer, mode, bytes: bytes.to_vec() };
    let units = vec![
        unit(0, 0, 0, Mode::STORED, b"{\"a\""),
        unit(0, 1, 0, Mode::STORED, b":1}"),
        unit(1, 0, 0, Mode::TENSOR_HEADER, b"a tensor header of an odd length"),
        unit(1, 2, 0, Mode::FLOAT, b"tile 2"),
        unit(1, 0, 0, Mode::FLOAT, b"tile 0, sixteen!"),
        unit(1, 3, 0, Mode::ZSTD, b"tile 3"),
        unit(1, 1, 0, Mode::FLOAT, b""),
        unit(1, 1, 1, Mode(76), b"layer 1"),
        unit(3, 0, 0, Mode::STORED, b"12345678901234567890"),
        unit(4, 0, 0, Mode(77), b"?"),
        unit(6, 41, 0, Mode(78), b"of the unknown class"),
        unit(6, 41, 0, Mode::TENSOR_HEADER, b""),
    ];
    let mut content = Content { objects, units, layers: vec![] };
    content.units[11].tile = 0;
    content
}

pub fn open(bytes: &[u8]) -> Result<Reader<&[u8]>, impasto_container::ContainerError> {
    Reader::open(bytes, "t.impasto", &Limits::default())
}
