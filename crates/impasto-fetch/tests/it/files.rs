//! Files to fetch, and requests for them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use impasto_container::{
    Base, BaseLink, BaseUsage, LayerMark, Object, ObjectKind, Reader, TensorMeta, UnitSlot, Writer,
};
use impasto_core::{DType, Mode};
use impasto_fetch::{Address, Cancel, Done, FetchError, Goal, Options, Request, Watch, fetch};

/// Bytes that do not repeat.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn write(
    base: Option<Base>,
    objects: Vec<Object>,
    slots: Vec<UnitSlot>,
    marks: Vec<LayerMark>,
    units: Vec<(Mode, Vec<u8>)>,
) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let mut writer = Writer::create_over(&path, base, objects, slots, marks).unwrap();
    units.iter().for_each(|(mode, bytes)| writer.push(*mode, bytes).unwrap());
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

fn tensor(name: &str, rows: u64, base: Option<BaseLink>) -> Object {
    let kind = ObjectKind::Tensor(TensorMeta {
        dtype: DType::Bf16,
        opaque: None,
        dims: vec![rows, 32],
        split: 1,
        tile_rows: 1,
        tile_cols: 32,
        tied: None,
        reference: None,
        base,
    });
    Object { name: name.to_owned(), kind }
}

fn slot(tile: u32, layer: u8, is_header: bool) -> UnitSlot {
    UnitSlot { object: 0, tile, layer, is_header }
}

/// A file of one tensor with `tiles` tiles in layer 0, of `length` bytes each (some are longer or shorter), and the same in layer 1
/// above. Its layer table has layer 1 (the base), layer 2 (half of the rest) and layer 3 (all).
pub fn layered(seed: u64, tiles: u32, length: usize) -> Vec<u8> {
    let sizes = |tile: u32| length + tile as usize % 7;
    let mut slots = vec![slot(0, 0, true)];
    slots.extend((0..tiles).map(|tile| slot(tile, 0, false)));
    slots.push(slot(0, 1, true));
    slots.extend((0..tiles).map(|tile| slot(tile, 1, false)));
    let unit = |n: usize, slot: &UnitSlot| {
        let mode = match (slot.is_header, slot.layer) {
            (true, _) => Mode::TENSOR_HEADER,
            (false, 0) => Mode::LATTICE,
            (false, _) => Mode::REFINEMENT,
        };
        (mode, noise(seed * 1_000_000 + n as u64, if slot.is_header { 21 } else { sizes(slot.tile) }))
    };
    let units: Vec<_> = slots.iter().enumerate().map(|(n, slot)| unit(n, slot)).collect();
    let base = tiles + 1;
    let mark = |units| LayerMark { units, kld: None };
    let marks = vec![mark(base), mark(base + 1 + tiles / 2), mark(2 * base)];
    write(None, vec![tensor("w", u64::from(tiles), None)], slots, marks, units)
}

/// A delta of `base`, whose only tensor it uses at a level.
pub fn delta(base: &[u8], level: Option<u8>, mirrors: &[&str]) -> Vec<u8> {
    let reader = open(base);
    let tiles = reader.objects()[0].tensor().map_or(0, |meta| meta.dims[0]);
    let link = level.map(|level| BaseLink {
        usage: BaseUsage::Identical,
        level,
        hash: reader.object_hash(0, level).unwrap(),
        name: None,
    });
    let base = Base {
        root: *reader.root(),
        name: "base".to_owned(),
        license: String::new(),
        mirrors: mirrors.iter().map(|mirror| (*mirror).to_owned()).collect(),
    };
    let mut objects =
        vec![Object { name: "a".to_owned(), kind: ObjectKind::Asset { length: 3, piece: 3, base: None } }];
    objects.extend(link.map(|link| tensor("w", tiles, Some(link))));
    write(Some(base), objects, vec![slot(0, 0, false)], vec![], vec![(Mode::STORED, b"abc".to_vec())])
}

pub fn open(bytes: &[u8]) -> Reader<&[u8]> {
    Reader::open(bytes, "f", &Request::new(Address::parse("file:f").unwrap(), "f").limits).unwrap()
}

/// Options for a server that is near. Time is short between tries, but not until something is given up: machines may be busy.
pub fn quick() -> Options {
    Options {
        chunk: 20_000,
        backoff: Duration::from_millis(4),
        longest_wait: Duration::from_millis(60),
        ..Options::default()
    }
}

/// The same for a server that takes too long for an answer, or for more of it.
pub fn impatient() -> Options {
    Options {
        answer: Duration::from_millis(400),
        stall: Duration::from_millis(400),
        patience: Duration::from_millis(300),
        ..quick()
    }
}

/// A request with these options.
pub fn request(url: &str, file: &Path) -> Request {
    Request { options: quick(), ..Request::new(Address::parse(url).unwrap(), file) }
}

/// Remembers what it is told.
#[derive(Default)]
pub struct Told {
    pub goals: Mutex<Vec<Goal>>,
    pub units: Mutex<Vec<u32>>,
    pub errors: Mutex<Vec<String>>,
    pub waits: Mutex<Vec<Duration>>,
}

impl Watch for Told {
    fn begun(&self, goal: &Goal) {
        self.goals.lock().unwrap().push(goal.clone());
    }

    fn arrived(&self, units: u32, _bytes: u64) {
        self.units.lock().unwrap().push(units);
    }

    fn retrying(&self, error: &FetchError, wait: Duration) {
        self.errors.lock().unwrap().push(error.to_string());
        self.waits.lock().unwrap().push(wait);
    }
}

/// Fetches, and returns what was told, too.
pub fn run_told(request: &Request) -> (Result<Done, FetchError>, Arc<Told>) {
    let told = Arc::new(Told::default());
    (fetch(request, told.clone(), &Cancel::default()), told)
}

pub fn run(request: &Request) -> Result<Done, FetchError> {
    run_told(request).0
}

/// A folder with a path for the file.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Checks that the file is a prefix of `data` that ends with a whole unit, and that nothing else is in the folder. Returns its
    /// length.
    pub fn holds(&self, data: &[u8]) -> usize {
        let file = std::fs::read(self.path("f")).unwrap();
        assert!(data.starts_with(&file), "not a prefix: {} bytes", file.len());
        let names: Vec<_> = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["f"]);
        let reader = open(data);
        let ends: Vec<u64> = (0..=reader.units().len() as u32).map(|units| reader.prefix_length(units)).collect();
        assert!(ends.contains(&(file.len() as u64)), "{} bytes", file.len());
        file.len()
    }
}
