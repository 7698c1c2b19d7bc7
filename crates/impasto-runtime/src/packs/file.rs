//! The layout of a file of packed weights.
//!
//! | at | what |
//! |---|---|
//! | 0 | [`MAGIC`]; layout, start and length of the index, 64 bits each |
//! | 32 | BLAKE3 of these 32 bytes and the index |
//! | 4096 | the matrices, each at a multiple of 64 |
//! | start of the index | the [`Index`], as JSON |
//!
//! Numbers have the byte order of the machine, as matrices do: a file is for the kind of machine that wrote it. It is no
//! format for exchange, and only the version that wrote it reads it.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use blake3::Hasher;
use impasto_core::files::{AtomicFile, Map};
use impasto_kernels::Pool;
use impasto_kernels::stored::{ALIGNMENT, LAYOUT, Reader, Writer};
use serde::{Deserialize, Serialize};

use super::{Found, Pack, PackError, matrix};
use crate::load::{LoadWarning, Wanted};
use crate::matrix::Matrix;
use crate::weights::Weights;

const MAGIC: [u8; 8] = *b"\x89IMPACK\n";
/// Bytes of the header without its hash, and with it.
const HEAD: usize = 32;
const HEADER: usize = 64;
/// Where matrices begin: a page, so that none shares one with the header.
const START: usize = 4096;
/// Bytes that are hashed together: enough for all workers to have some, in files worth the time.
const PIECE: usize = 1 << 20;

/// What is in a file.
#[derive(Serialize, Deserialize)]
struct Index {
    /// The version of the program.
    version: String,
    /// What the source said that it is.
    content: [u8; 32],
    /// The matrices.
    matrices: Vec<Entry>,
    /// BLAKE3 of each piece of the matrices; the last may be shorter.
    pieces: Vec<[u8; 32]>,
}

/// A matrix in a file.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Name of the tensor.
    name: String,
    /// The first byte, and one past the last.
    start: usize,
    end: usize,
    warning: Option<LoadWarning>,
}

/// Hashes what it passes on, in pieces.
struct Hashing<W> {
    to: W,
    written: usize,
    hasher: Hasher,
    pieces: Vec<[u8; 32]>,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE - self.written % PIECE)];
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        self.written += bytes.len();
        if !bytes.is_empty() && self.written.is_multiple_of(PIECE) {
            self.end_piece();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W> Hashing<W> {
    fn end_piece(&mut self) {
        self.pieces.push(*self.hasher.finalize().as_bytes());
        self.hasher.reset();
    }
}

/// Writes a file. It appears whole, whatever other processes do.
pub(super) fn write(
    path: &Path,
    content: &[u8; 32],
    weights: &Weights,
    warnings: &[LoadWarning],
) -> Result<Pack, PackError> {
    write_file(path, content, weights, warnings).map_err(PackError::io(path))
}

fn write_file(path: &Path, content: &[u8; 32], weights: &Weights, warnings: &[LoadWarning]) -> io::Result<Pack> {
    let mut file = BufWriter::with_capacity(PIECE, AtomicFile::create_with_mode(path, 0o644)?);
    file.write_all(&[0; START])?;
    let mut to = Hashing { to: &mut file, written: 0, hasher: Hasher::new(), pieces: vec![] };
    let mut matrices = Vec::new();
    for linear in weights.linears() {
        let start = START + to.written;
        if matrix::write(&linear.matrix, &mut Writer::new(&mut to))? {
            let warning = warnings.iter().find(|warning| warning.tensor == linear.name).cloned();
            matrices.push(Entry { name: linear.name.clone(), start, end: START + to.written, warning });
        }
    }
    if !to.written.is_multiple_of(PIECE) {
        to.end_piece();
    }
    let (count, at) = (matrices.len(), START + to.written);
    let index = Index { version: env!("CARGO_PKG_VERSION").into(), content: *content, matrices, pieces: to.pieces };
    let index = serde_json::to_vec(&index)?;
    file.write_all(&index)?;
    let numbers = [LAYOUT, at as u64, index.len() as u64].map(u64::to_ne_bytes).concat();
    let head = [&MAGIC[..], &numbers].concat();
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)?;
    file.write_all(&hash(&head, &index))?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.commit()?;
    Ok(Pack { path: path.to_owned(), bytes: (at + index.len()) as u64, matrices: count })
}

fn hash(head: &[u8], index: &[u8]) -> [u8; 32] {
    *Hasher::new().update(head).update(index).finalize().as_bytes()
}

/// Reads the wanted matrices of a file, on all threads. Every byte is checked against its hash before it is used, and the
/// structure of matrices too, because hashes only tell what was written.
pub(super) fn read(
    file: &File,
    path: &Path,
    content: &[u8; 32],
    wanted: &[Wanted<'_>],
    pool: &Pool,
) -> Result<Found, PackError> {
    let damaged = |rule| PackError::Damaged { path: path.to_owned(), rule };
    let map = Arc::new(Map::new(file, path).map_err(PackError::io(path))?);
    let header = map.first_chunk::<HEADER>().ok_or_else(|| damaged("it has no header"))?;
    let (head, hash_of_index) = header.split_at(HEAD);
    let number = |place: usize| u64::from_ne_bytes(std::array::from_fn(|byte| head[8 * place + byte]));
    if head[..8] != MAGIC || number(1) != LAYOUT {
        return Err(PackError::Version(path.to_owned()));
    }
    let (at, length) = (usize::try_from(number(2)), usize::try_from(number(3)));
    let (at, length) = at.ok().zip(length.ok()).ok_or_else(|| damaged("its index is not there"))?;
    let matrices = map.get(START..at).ok_or_else(|| damaged("its matrices are not there"))?;
    let index = map.get(at..).filter(|index| index.len() == length);
    let index = index.filter(|index| hash(head, index) == hash_of_index);
    let index = index.ok_or_else(|| damaged("its index has another hash"))?;
    let index: Index = serde_json::from_slice(index).map_err(|_| PackError::Version(path.to_owned()))?;
    if index.version != env!("CARGO_PKG_VERSION") {
        return Err(PackError::Version(path.to_owned()));
    }
    if index.content != *content {
        return Err(PackError::OtherContent(path.to_owned()));
    }
    let pieces: Vec<&[u8]> = matrices.chunks(PIECE).collect();
    if pieces.len() != index.pieces.len() {
        return Err(damaged("its index has another length than its matrices"));
    }
    pool.try_run(pieces.len(), &|_, i| {
        let is_as_written = blake3::hash(pieces[i]) == index.pieces[i];
        if is_as_written { Ok(()) } else { Err(damaged("a matrix has another hash")) }
    })?;
    let matrices: Vec<OnceLock<Matrix>> = wanted.iter().map(|_| OnceLock::new()).collect();
    pool.try_run(wanted.len(), &|_, i| {
        let Wanted { name, shape } = wanted[i];
        let entry = index.matrices.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| damaged("a matrix is not there"))?;
        let is_inside = START <= entry.start && entry.start <= entry.end && entry.end <= at;
        let reader = Reader::new(map.clone(), entry.start..entry.end).filter(|_| is_inside);
        let matrix = reader.and_then(|mut reader| matrix::read(&mut reader, shape));
        let matrix = matrix.ok_or_else(|| damaged("a matrix is not one"))?;
        matrices[i].get_or_init(|| matrix);
        Ok(())
    })?;
    let warnings = index.matrices.into_iter().filter_map(|entry| entry.warning).collect();
    // Bytes past the end of a file that became shorter were read as zeros.
    map.check().map_err(PackError::io(path))?;
    Ok(Found { matrices: matrices.into_iter().filter_map(OnceLock::into_inner).collect(), warnings, map })
}

const _: () = assert!(START.is_multiple_of(ALIGNMENT) && HEADER <= START);
