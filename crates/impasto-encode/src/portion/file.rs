//! A file of a portion: a container (SPEC 2 to 4) with an asset that says what it is, its *card*, and the units of some tensors or of
//! none.
//!
//! It is private to one version of the program. It is written atomically, and everything in it has a hash.

use std::path::{Path, PathBuf};

use impasto_container::{Limits, MmapSource, Object, ObjectKind, Reader, Source, UnitSlot, Writer};
use impasto_core::Mode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Portion;
use crate::code::{CodedAsset, PIECE};
use crate::error::EncodeError;

/// The name of the asset. No file of a checkpoint that is kept has such a name.
pub const CARD: &str = "#portion";
/// The version of the card.
pub const VERSION: u32 = 1;
/// The largest card.
const MOST_CARD: u64 = 1 << 28;
/// Ending of the folder of the files, after the name of the output.
const FOLDER: &str = ".shards";

/// What a file of a portion is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card<T> {
    pub version: u32,
    /// The hash of everything that the file depends on: program, model, statistics, options.
    pub fingerprint: String,
    pub portion: usize,
    pub of: usize,
    pub stage: String,
    /// Numbers of the tensors that the facts or the units are of, in the order of the file of one machine.
    pub tensors: Vec<usize>,
    pub facts: T,
}

/// An open file of a portion.
pub struct Opened<T, S = MmapSource> {
    pub reader: Reader<S>,
    pub card: Card<T>,
}

/// Returns the folder of the files of portions of the file at `path`.
pub fn folder(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(FOLDER);
    name.into()
}

/// Returns the name of a file of a portion.
pub fn name(portion: Portion, stage: &str) -> String {
    format!("{}-of-{}.{stage}", portion.number, portion.of)
}

/// Returns the portion and the stage that a file name says, if it is that of a file of a portion.
pub fn parsed(name: &str) -> Option<(Portion, &str)> {
    let (number, rest) = name.split_once("-of-")?;
    let (of, stage) = rest.split_once('.')?;
    let portion = Portion::new(number.parse().ok()?, of.parse().ok()?)?;
    (self::name(portion, stage) == name).then_some((portion, stage))
}

impl<T: Serialize> Card<T> {
    /// Returns the card as an asset.
    pub fn to_asset(&self) -> CodedAsset {
        // Numbers, texts and lists of them have a form in JSON.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let pieces = bytes.chunks(PIECE as usize).map(|piece| (Mode::STORED, piece.to_vec())).collect();
        CodedAsset { name: CARD.to_owned(), length: bytes.len() as u64, pieces, base: None }
    }

    /// Writes a file without tensors.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), EncodeError> {
        let card = self.to_asset();
        let slots = (0..card.pieces.len() as u32).map(|tile| UnitSlot { object: 0, tile, layer: 0, is_header: false });
        let kind = ObjectKind::Asset { length: card.length, piece: PIECE, base: None };
        let mut writer = Writer::create(path, vec![Object { name: card.name, kind }], slots.collect(), vec![])?;
        for (mode, bytes) in &card.pieces {
            writer.push(*mode, bytes)?;
        }
        writer.finish()?;
        Ok(())
    }
}

/// Opens a file of a portion and reads its card.
///
/// # Errors
/// If it is not a valid file with the name that its card says, or it cannot be read.
pub fn open<T: DeserializeOwned>(path: &Path) -> Result<Opened<T>, EncodeError> {
    opened(Reader::open_file(path, &limits())?, path.file_name().and_then(|name| name.to_str()).unwrap_or_default())
}

/// Returns the limits of a file, of which nothing of a tensor is decoded.
pub fn limits() -> Limits {
    Limits { allow_expansion: true, ..Limits::default() }
}

/// Reads the card of a file with this name.
///
/// # Errors
/// As for [`open`].
pub fn opened<T: DeserializeOwned, S: Source>(reader: Reader<S>, named: &str) -> Result<Opened<T, S>, EncodeError> {
    let broken = |rule: String| EncodeError::PortionFile { file: reader.name().to_owned(), rule };
    let object = reader.find_asset(CARD).ok_or_else(|| broken("it is no file of a shard".into()))?;
    if !matches!(reader.objects()[object as usize].kind, ObjectKind::Asset { length, .. } if length <= MOST_CARD) {
        return Err(broken("its description is too long".into()));
    }
    let mut bytes = vec![];
    for &unit in reader.units_of(object).map_or(&[][..], |units| units.tiles) {
        if reader.units()[unit as usize].mode != Mode::STORED {
            return Err(broken("its description is compressed".into()));
        }
        bytes.extend_from_slice(&reader.read_unit(unit)?);
    }
    let card: Card<T> = serde_json::from_slice(&bytes).map_err(|error| broken(format!("its description: {error}")))?;
    if card.version != VERSION {
        return Err(broken(format!("it has version {}, and this program reads version {VERSION}", card.version)));
    }
    let portion = Portion::new(card.portion, card.of);
    if portion.is_none_or(|portion| name(portion, &card.stage) != named) {
        return Err(broken("its name is not that of its contents".into()));
    }
    if !card.tensors.is_sorted_by(|a, b| a < b) {
        return Err(broken("its tensors are not in order".into()));
    }
    Ok(Opened { reader, card })
}

impl<T, S: Source> Opened<T, S> {
    /// Checks the hashes of all units.
    ///
    /// # Errors
    /// If a unit is damaged or missing, or the file cannot be read.
    pub fn verify(&self) -> Result<(), EncodeError> {
        for unit in 0..self.reader.units().len() as u32 {
            self.reader.read_unit(unit)?;
            self.reader.release_unit(unit);
        }
        Ok(self.reader.check_source()?)
    }

    /// Returns the object of each tensor, in the order of the card.
    ///
    /// # Errors
    /// If there are others.
    pub fn objects(&self) -> Result<impl Iterator<Item = (usize, u32)> + '_, EncodeError> {
        let objects = (0..self.reader.objects().len() as u32)
            .filter(|&object| self.reader.objects()[object as usize].tensor().is_some());
        if objects.clone().count() != self.card.tensors.len() {
            let (file, rule) = (self.reader.name().to_owned(), "it has other tensors than it says".to_owned());
            return Err(EncodeError::PortionFile { file, rule });
        }
        Ok(self.card.tensors.iter().copied().zip(objects))
    }
}
