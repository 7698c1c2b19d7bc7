//! Codes assets and tensors as units.

use std::ops::Range;

use impasto_checkpoint::Checkpoint;
use impasto_codec::tile::{MAX_SEGMENTS, TileEncoder, encode_bytes, segment_rows};
use impasto_codec::{Body, CodecError, IndexArray, Shape, TensorHeader};
use impasto_container::{BaseLink, COMPILED_SUFFIX, ContainerError, HEADER_SUFFIX, Matrix, unit_hash};
use impasto_core::{DType, Mode, Place};
use rayon::prelude::*;

use crate::decoded::part;
use crate::error::EncodeError;
use crate::lattice::Integers;
use crate::low_rank::predicted;
use crate::matrix::MatrixView;
use crate::options::Options;
use crate::over::Over;
use crate::plan::{Coding, Plan};
use crate::tools::{Lattice, OfFormat, Tile, Transform, code_delta, code_exact, code_lossy};
use crate::transform::{Request, jpeg_request};

/// Size of a piece of an asset, in bytes.
pub const PIECE: u64 = 4 << 20;
/// The asset that may have a compiled form.
const TOKENIZER: &str = "tokenizer.json";
/// Zstandard compression levels for assets. A lossy file takes long to encode, and assets are a larger part of it.
const ASSET_LEVEL: i32 = 18;
const EXACT_ASSET_LEVEL: i32 = 9;
/// Tiles that are coded before any of them is written; bounds memory for large tensors.
pub const BATCH: usize = 64;

/// Most rows of a segment on a trellis, unless there are too many segments.
pub const MOST_ROWS: usize = 256;
/// About the bytes of a segment: its lengths, and its lane states, which carry three bytes less than they take.
const SEGMENT: u64 = 8 + 32 * 3;

/// An asset and its units.
#[derive(Clone)]
pub struct CodedAsset {
    /// Its name.
    pub name: String,
    /// Its bytes before coding.
    pub length: u64,
    /// Its units; none if it is identical to an asset of the base.
    pub pieces: Vec<(Mode, Vec<u8>)>,
    /// That asset.
    pub base: Option<BaseLink>,
}

impl CodedAsset {
    /// Returns the length of its units.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// Codes the assets of a checkpoint, sorted by name.
///
/// An exact file also keeps the headers of its shards. Any other file drops the index of the shards, since it would
/// refer to missing files.
///
/// # Errors
/// If Zstandard fails.
pub fn code_assets(
    checkpoint: &Checkpoint,
    options: &Options,
    over: Option<&Over>,
) -> Result<Vec<CodedAsset>, EncodeError> {
    let exact = options.is_exact();
    let shards = checkpoint.shards().iter().filter(|_| exact);
    let headers = shards.map(|shard| (format!("{}{HEADER_SUFFIX}", shard.name()), shard.header()));
    let kept = checkpoint.assets().iter().filter(|asset| exact || !asset.name.ends_with(".safetensors.index.json"));
    let assets: Vec<(String, &[u8])> = kept.map(|a| (a.name.clone(), &a.bytes[..])).chain(headers).collect();
    let level = if exact { EXACT_ASSET_LEVEL } else { ASSET_LEVEL };
    let coded =
        assets.into_par_iter().map(|(name, bytes)| match over.map(|over| over.asset(&name, bytes)).transpose()? {
            Some(Some(link)) => Ok(CodedAsset { name, length: bytes.len() as u64, pieces: vec![], base: Some(link) }),
            _ => code_asset(name, bytes, level),
        });
    let mut coded = coded.collect::<Result<Vec<_>, _>>()?;
    let tokenizer = coded.iter().find(|asset| asset.name == TOKENIZER);
    let form = options.compiled_tokenizer.as_deref();
    let is_of_base = tokenizer.is_some_and(|asset| asset.base.is_some());
    if let Some((over, form)) = over.filter(|_| is_of_base).zip(form) {
        coded.extend(compiled_of_base(over, form)?);
    } else if let Some((tokenizer, form)) = tokenizer.zip(form) {
        // It says which tokenizer.json it is of, by the hashes of its units.
        let hashes = tokenizer.pieces.iter().flat_map(|(_, unit)| unit_hash(unit));
        let bytes: Vec<u8> = hashes.chain(form.iter().copied()).collect();
        coded.push(code_asset(format!("{TOKENIZER}{COMPILED_SUFFIX}"), &bytes, level)?);
    }
    coded.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(coded)
}

/// Returns the compiled form of the tokenizer of the base as an asset, if it is this one. (It begins with the hashes of units
/// there.)
fn compiled_of_base(over: &Over, form: &[u8]) -> Result<Option<CodedAsset>, EncodeError> {
    let name = format!("{TOKENIZER}{COMPILED_SUFFIX}");
    let Some(of_base) = over.asset_bytes(&name)?.filter(|of_base| of_base.ends_with(form)) else { return Ok(None) };
    let base = over.asset(&name, &of_base)?;
    Ok(Some(CodedAsset { name, length: of_base.len() as u64, pieces: vec![], base }))
}

fn code_asset(name: String, bytes: &[u8], level: i32) -> Result<CodedAsset, EncodeError> {
    let pieces = bytes.par_chunks(PIECE as usize).map(|piece| encode_bytes(piece, DType::U8, level));
    let pieces = pieces.collect::<Result<Vec<_>, _>>();
    let pieces = pieces.map_err(|error| EncodeError::Codec { tensor: name.clone(), error })?;
    Ok(CodedAsset { name, length: bytes.len() as u64, pieces, base: None })
}

/// Codes a tensor and pushes its units. Returns the mode of most of its bytes, and their number.
///
/// `integers` are the integers and the tensor header of a tensor on the lattice; `reference` are the elements that
/// tiles may be predicted from, row-major: those of another tensor, or of the base.
///
/// # Errors
/// If coding or writing fails.
pub fn code_tensor(
    name: &str,
    matrix: &MatrixView,
    plan: &Plan,
    integers: Option<&(Integers, TensorHeader)>,
    reference: Option<&[u8]>,
    options: &Options,
    push: &mut impl FnMut(Mode, &[u8]) -> Result<(), ContainerError>,
) -> Result<(Mode, u64), EncodeError> {
    const MODES: [Mode; 8] =
        [Mode::STORED, Mode::ZSTD, Mode::FLOAT, Mode::LATTICE, Mode::TRANSFORM, Mode::DIGITS, Mode::SAME, Mode::EXACT];
    let mut by_mode = MODES.map(|mode| (mode, 0));
    let header = match &plan.coding {
        Coding::Bytes => None,
        Coding::Float(header) | Coding::Delta(header) | Coding::Jpeg(_, header) => Some(header),
        Coding::Lattice(_) | Coding::Format(_) | Coding::Transform(_) => integers.map(|(_, header)| header),
    };
    let segments = |header: &TensorHeader| segments(&plan.tiles, header.trellis().is_some(), options);
    let encoder = header.map(|header| TileEncoder::new(header, segments(header)));
    let mut header_bytes = 0;
    let tiles = (0..plan.tiles.tile_count()).filter_map(|i| plan.tiles.tile(i));
    let places: Vec<Place> = tiles.map(Place::from).collect();
    // Whether the header needs classes is known once all tiles are coded, if these may be in mode transform.
    let is_open = matches!(plan.coding, Coding::Transform(_));
    if let Some(header) = header.filter(|_| !is_open) {
        let bytes = header.to_bytes();
        header_bytes = bytes.len() as u64;
        push(Mode::TENSOR_HEADER, &bytes)?;
    }
    for batch in places.chunks(if is_open { usize::MAX } else { BATCH }) {
        let units = batch.par_iter().map(|place| match (&plan.coding, &encoder, integers) {
            (Coding::Lattice(grid), Some(encoder), Some((integers, _))) => {
                code_lossy(&Tile::new(matrix, place), &[&Lattice { encoder, integers, grid }])
            }
            (Coding::Format(_), Some(encoder), Some((integers, _))) => {
                code_lossy(&Tile::new(matrix, place), &[&OfFormat { encoder, integers }])
            }
            (Coding::Transform(grid), Some(encoder), Some((integers, _))) => {
                let lattice = Lattice { encoder, integers, grid };
                let Options { tools, effort, .. } = *options;
                let request = Request { effort, ..Request::new(&[], 0, tools) };
                let transform = Transform { grid, request, reference };
                code_lossy(&Tile::new(matrix, place), &[&lattice, &transform])
            }
            (Coding::Jpeg(grid, _), ..) => {
                let transform = Transform { grid, request: jpeg_request(&[], 0), reference: None };
                code_lossy(&Tile::new(matrix, place), &[&transform])
            }
            (Coding::Delta(_), Some(encoder), _) => {
                let of_base = reference.map(|over| part(over, matrix.dtype, matrix.columns, place)).unwrap_or_default();
                let low_rank = header.and_then(TensorHeader::low_rank);
                let predicted = low_rank.map(|part| predicted(part, matrix.dtype, place, &of_base));
                code_delta(&Tile::new(matrix, place), encoder, &of_base, predicted.as_deref().unwrap_or(&of_base))
            }
            _ => code_exact(&Tile::new(matrix, place), encoder.as_ref()),
        });
        let units = units.collect::<Result<Vec<_>, CodecError>>();
        let units = units.map_err(|error| EncodeError::Codec { tensor: name.to_owned(), error })?;
        if let Some(header) = header.filter(|_| is_open) {
            let needs_classes = units.iter().flatten().any(|(mode, _)| *mode == Mode::LATTICE);
            let bytes = match &plan.coding {
                Coding::Transform(grid) if !needs_classes => grid.header().to_bytes(),
                _ => header.to_bytes(),
            };
            header_bytes = bytes.len() as u64;
            push(Mode::TENSOR_HEADER, &bytes)?;
        }
        for (mode, bytes) in units.into_iter().flatten() {
            by_mode.iter_mut().filter(|(m, _)| *m == mode).for_each(|(_, sum)| *sum += bytes.len() as u64);
            push(mode, &bytes)?;
        }
    }
    let most = by_mode.iter().max_by_key(|(_, bytes)| bytes).map_or(Mode::STORED, |(mode, _)| *mode);
    Ok((most, header_bytes + by_mode.iter().map(|(_, bytes)| bytes).sum::<u64>()))
}

/// Returns the segments of the tiles of a tensor. Columns of a segment on a trellis are rounded by one thread, so there are more.
pub fn segments(tiles: &Matrix, on_trellis: bool, options: &Options) -> usize {
    let least = if on_trellis { (tiles.tile_rows().min(tiles.rows()) as usize).div_ceil(MOST_ROWS) } else { 1 };
    options.segments.max(least).min(MAX_SEGMENTS)
}

/// Returns about the bytes of the segments that a plan has for a trellis.
pub fn more_segments(plan: &Plan, options: &Options) -> u64 {
    let Coding::Lattice(grid) = &plan.coding else { return 0 };
    let more = segments(&plan.tiles, grid.trellis.is_some(), options) - options.segments.min(MAX_SEGMENTS);
    more as u64 * u64::from(plan.tiles.tile_count()) * SEGMENT
}

/// Returns the rows of the segments of a tensor whose tiles have so many, in order: the parts that are rounded to paths.
pub fn parts(tiles: &Matrix, segments: usize) -> Vec<Range<usize>> {
    let (rows, height) = (tiles.rows() as usize, tiles.tile_rows().max(1) as usize);
    let of_tiles = (0..rows).step_by(height).flat_map(|first| {
        let height = height.min(rows - first);
        let n = segments.min(height).max(1);
        (0..n).map(move |j| {
            let rows = segment_rows(j, n, height);
            first + rows.start..first + rows.end
        })
    });
    of_tiles.collect()
}

/// Returns a tensor header without classes.
pub fn plain_header(shape: Shape, body: Body) -> TensorHeader {
    let none = IndexArray::Constant(0);
    TensorHeader { shape, plane: 0, row_classes: none.clone(), column_classes: none, body }
}
