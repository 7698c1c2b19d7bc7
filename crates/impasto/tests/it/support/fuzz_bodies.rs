//! The bodies of the fuzz targets. `fuzz/` runs them under libFuzzer, and `tests/it/regressions.rs` on the saved
//! inputs.
//!
//! Each function must return for any input, without a panic, and with memory and time in proportion to the input.
//! Parsed values must also be consistent, and all instruction sets must give the same results.
#![allow(dead_code)] // Each user needs only a part.

use std::ops::Range;

use impasto::verify::verify;
use impasto::{File, FileError, encode};
use impasto_checkpoint::gguf::{self, hf};
use impasto_checkpoint::{Asset, Header as Safetensors, TensorInfo, TensorSpec, parse_detached_header, parse_header};
use impasto_codec::rans::{Columns, Decoder, LANES, LOW, encode_segment, escape_value};
use impasto_codec::tables::{Frequencies, Lut, parametric, read_explicit};
use impasto_codec::tile::{TileDecoder, Unit};
use impasto_codec::transform::{Reference, decode_layers, progressive};
use impasto_codec::{Body as HeaderBody, CodecError, IndexArray, Kind, Shape, Steps, TensorHeader};
use impasto_container::unit::unit_hash;
use impasto_container::{Header, Layout, Limits, Manifest, Reader, UnitHealth, UnitState, fuzz_manifest, fuzz_open};
use impasto_core::{DType, Isa, Mode, Place, varint};
use impasto_fetch::Address;
use impasto_fetch::answer::{ContentRange, content_range, retry_after};
use impasto_model::config::{DecoderConfig, eos_token_ids};
use impasto_model::{Failure, WeightSource, graph};
use impasto_text::tools::{self, ToolChoice, ToolEvent, ToolFormat, ToolParser};
use impasto_text::{ChatOptions, ChatTemplate, Message, Tokenizer};

/// The body of a fuzz target, which takes the bytes of the fuzzer.
pub type Body = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Body); 15] = [
    ("safetensors", safetensors),
    ("gguf", gguf),
    ("config", config),
    ("container", container),
    ("file", file),
    ("portion", portion),
    ("tile", tile),
    ("layers", layers),
    ("entropy", entropy),
    ("transform", transform),
    ("tokenizer", tokenizer),
    ("template", template),
    ("answer", answer),
    ("calls", calls),
    ("message", message),
];

/// Takes the input as a file of a shard, of an encoding and of a calibration, that is the only one.
pub fn portion(data: &[u8]) {
    let Some(patched) = with_hashes(data) else { return };
    for result in [encode::fuzz_portion(&patched), encode::fuzz_sums(&patched)] {
        result.map_or_else(|error| one_line(&error), drop);
    }
}

/// Takes the input, line by line, as what a server answers and what a user types: `Content-Range`, `Retry-After`, an address and a
/// mirror of it.
pub fn answer(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let now = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let base = Address::parse("https://a.example/folder/delta.impasto").expect("a good address");
    for line in text.lines() {
        if let Some(ContentRange::Part { start, end, total }) = content_range(line) {
            assert!(start < end && total.is_none_or(|total| end <= total), "{line:?}");
        }
        _ = retry_after(line, now);
        match Address::parse(line) {
            Ok(address) => {
                let shown = address.to_string();
                assert!(!shown.contains(char::is_control), "{shown:?}");
            }
            Err(error) => one_line(&error),
        }
        match base.mirror(line) {
            Ok(mirror) => assert!(!matches!(mirror, Address::File(_)), "{line:?}: a file of this machine"),
            Err(error) => one_line(&error),
        }
    }
}

/// Memory limit for a tensor while fuzzing, in bytes.
const MEMORY: u64 = 4 << 20;

/// Parses the input as the header of a safetensors file, both as it is and as the JSON alone.
pub fn safetensors(data: &[u8]) {
    match parse_header(data, data.len() as u64, "fuzz") {
        Ok(header) => whole_header(&header, data.len() as u64),
        Err(error) => one_line(&error),
    }
    let detached = [&(data.len() as u64).to_le_bytes(), data].concat();
    match parse_detached_header(&detached, "fuzz") {
        Err(error) => one_line(&error),
        Ok(header) => {
            let end = header.tensors.last().map_or(0, |t| t.offsets().end);
            if let Some(file_len) = header.data_start.checked_add(end) {
                whole_header(&header, file_len);
                let attached = parse_header(&detached, file_len, "fuzz").expect("the same header with its data");
                assert_eq!(attached, header);
                assert!(parse_header(&detached, file_len + 1, "fuzz").is_err(), "bytes that no tensor covers");
            }
        }
    }
}

/// Checks that the tensors are contiguous, fill the data, and have the sizes of their shapes.
fn whole_header(header: &Safetensors, file_len: u64) {
    let mut at = 0;
    for tensor in &header.tensors {
        assert_eq!(tensor.offsets().start, at);
        at = tensor.offsets().end;
        let weights = tensor.shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim)).expect("a checked shape");
        assert_eq!(tensor.dtype == DType::Opaque, tensor.type_name.is_some());
        if tensor.dtype != DType::Opaque {
            assert_eq!((weights, weights * tensor.dtype.size() as u64), (tensor.elements(), tensor.byte_len()));
        }
    }
    assert_eq!(at, file_len - header.data_start);
}

/// Parses the input as a GGUF file and as its header alone, writes its header again, and translates its metadata.
pub fn gguf(data: &[u8]) {
    let header = match gguf::parse_header(data, data.len() as u64, "fuzz") {
        Ok(header) => header,
        Err(error) => return one_line(&error),
    };
    let mut at = 0;
    for tensor in &header.tensors {
        let offsets = tensor.offsets();
        assert!(offsets.start >= at && offsets.start - at < header.alignment && offsets.end >= offsets.start);
        assert_eq!(tensor.dtype == DType::Opaque, tensor.type_name.is_some());
        if tensor.dtype != DType::Opaque {
            assert_eq!(tensor.elements() * tensor.dtype.weights() as u64, tensor.weights());
        }
        at = offsets.end;
    }
    assert!(
        at <= data.len() as u64 - header.data_start && data.len() as u64 - header.data_start - at < header.alignment
    );

    let raw = &data[..header.data_start as usize];
    let detached = gguf::parse_detached_header(raw, "fuzz").expect("the header alone");
    assert_eq!((detached.data_start, detached.tensors.len()), (header.data_start, header.tensors.len()));

    let specs: Vec<TensorSpec> = header.tensors.iter().map(TensorSpec::from).collect();
    match gguf::encode_header(&header.metadata, &specs, "fuzz") {
        Err(error) => one_line(&error),
        Ok(written) => {
            let again = gguf::parse_detached_header(&written, "fuzz").expect("what was read can be written");
            // Metadata is compared as bytes, because NaN does not equal itself.
            assert_eq!(gguf::encode_header(&again.metadata, &specs, "fuzz").expect("the same"), written);
        }
    }
    let assets = hf::assets(&header.metadata, &Listed(&header.tensors));
    assets.notes().iter().for_each(one_line);
    let json = CONFIGURATION.map(|name| assets.get(name).unwrap_or_default().to_vec());
    configuration(&json, &Listed(&header.tensors));
}

/// The files that configure a model.
const CONFIGURATION: [&str; 3] = ["config.json", "generation_config.json", "tokenizer_config.json"];
/// A tokenizer that goes with any of them.
const TOKENIZER: &[u8] = br#"{"added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}"#;

/// Takes the input as the files that configure a model, separated by zero bytes.
pub fn config(data: &[u8]) {
    let mut files = data.split(|&byte| byte == 0);
    configuration(&CONFIGURATION.map(|_| files.next().unwrap_or_default().to_vec()), &Listed(&[]));
}

/// The files that configure a model; an empty one is absent.
struct Configuration<'a>(&'a [Vec<u8>; 3]);

impl WeightSource for Configuration<'_> {
    fn shape(&self, _: &str) -> Option<Vec<u64>> {
        None
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        Err(format!("{name:?} has no weights").into())
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        let file = &self.0[CONFIGURATION.iter().position(|file| *file == name)?];
        (!file.is_empty()).then(|| file.clone())
    }
}

/// Reads the files that configure a model, describes its network, and translates them to the metadata of a GGUF.
fn configuration(files: &[Vec<u8>; 3], tensors: &Listed) {
    match DecoderConfig::from_json(&files[0]) {
        Err(error) => one_line(&error),
        Ok(mut config) => {
            assert!(config.weight_bytes().is_some() && config.num_heads.is_multiple_of(config.num_kv_heads));
            for rope in &config.ropes {
                let frequencies = rope.frequencies(config.max_position_embeddings);
                assert_eq!(frequencies.len(), rope.dim / 2);
            }
            match graph::describe_source(&Configuration(files), &mut config) {
                Err(error) => one_line(&error),
                Ok(network) => assert_eq!(network.blocks.len(), config.blocks.len()),
            }
        }
    }
    if let Err(error) = eos_token_ids(&Configuration(files)) {
        one_line(&error);
    }
    // Templates that come with it are programs, which only run in a process of their own.
    if let Err(error) = ChatTemplate::from_assets(Some(&files[2]), Some(b"{{ messages }}"), None) {
        one_line(&error);
    }
    let mut assets = vec![Asset { name: "tokenizer.json".into(), bytes: TOKENIZER.to_vec() }];
    let given = CONFIGURATION.iter().zip(files).filter(|(_, bytes)| !bytes.is_empty());
    assets.extend(given.map(|(name, bytes)| Asset { name: (*name).into(), bytes: bytes.clone() }));
    match hf::metadata(&assets, tensors, "fuzz", 0) {
        Err(error) => one_line(&error),
        Ok(made) => {
            made.notes.iter().for_each(one_line);
            // What is written can be read.
            let header = gguf::encode_header(&made.metadata, &[], "fuzz").expect("metadata that was made");
            gguf::parse_detached_header(&header, "fuzz").expect("a header that was written");
        }
    }
}

/// The tensors of a header, without data.
struct Listed<'a>(&'a [TensorInfo]);

impl hf::Tensors for Listed<'_> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.0.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape.clone())
    }

    fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.0.iter().find(|tensor| tensor.name == name && tensor.dtype == DType::F32)?;
        Some((1..=tensor.elements().min(64)).map(|i| i as f32).collect())
    }
}

/// Parses the input as a file, and as a manifest alone.
pub fn container(data: &[u8]) {
    match fuzz_open(data) {
        Ok(reader) => walk(&reader),
        Err(error) => one_line(&error),
    }
    match fuzz_manifest(data) {
        Err(error) => one_line(&error),
        Ok((manifest, layout)) => {
            let bytes = manifest.to_bytes();
            let (again, _) = fuzz_manifest(&bytes).expect("what was read can be written");
            assert_eq!(again, manifest);
            let header = header_of(data, &layout);
            let reader = Reader::open(header, "fuzz", &Limits::default()).expect("a manifest that was read");
            walk(&reader);
        }
    }
}

/// Returns a file that ends with its manifest.
fn header_of(manifest: &[u8], layout: &Layout) -> Vec<u8> {
    let header = Header {
        minor: 0,
        manifest_length: manifest.len() as u64,
        file_length: layout.places().end(),
        root: *blake3::hash(manifest).as_bytes(),
    };
    [&header.to_bytes()[..], manifest].concat()
}

/// Calls every method of a reader.
fn walk<S: impasto_container::Source>(reader: &Reader<S>) {
    for unit in 0..reader.units().len() as u32 {
        let health = reader.verify_unit(unit).expect("a unit of the manifest");
        assert_eq!(health == UnitHealth::Absent, reader.unit_state(unit).expect("the same") == UnitState::Absent);
        if let Err(error) = reader.read_unit(unit) {
            one_line(&error);
        }
    }
    for object in 0..reader.objects().len() as u32 {
        let (Some(matrix), Some(units)) = (reader.matrix(object), reader.units_of(object)) else { continue };
        let is_identical = reader.objects()[reader.resolve(object) as usize].is_identical();
        assert_eq!(units.tiles.len(), if is_identical { 0 } else { matrix.tile_count() as usize });
        let (rows, columns) = (matrix.rows(), matrix.cols());
        let corner = reader.units_of_band(object, rows / 2..rows / 2 + 1, 0..columns / 2 + 1).expect("known");
        // In each layer, and of the reference, the tiles and the tensor header.
        let has_reference = reader.reference_of(object).is_some();
        let layers = 1 + usize::from(reader.layers_of(object)) + usize::from(has_reference);
        assert!(corner.len() <= (units.tiles.len() + 1) * layers);
        if let Some(rect) = matrix.tile_count().checked_sub(1).and_then(|last| matrix.tile(last)) {
            assert_eq!((rect.rows.end, rect.cols.end), (rows, columns));
            assert!((rect.height() as u64) * (rect.width() as u64) <= 1 << 24);
        }
    }
}

/// The base of every delta.
const BASE: &[u8] = include_bytes!("../../../../../conformance/files/21-small-base.impasto");

/// Corrects the hashes of the input, so that the code after the hash checks is reached, and reads it as a file; if it is a
/// delta, with a base.
pub fn file(data: &[u8]) {
    let Some(patched) = with_hashes(data) else { return };
    let reader = match Reader::open(patched, "fuzz", &Limits::default()) {
        Ok(reader) => reader,
        Err(error) => return one_line(&error),
    };
    let mut file = File::new(reader);
    file.set_memory_limit(MEMORY);
    if file.base().is_some() {
        let base = Reader::open(BASE.to_vec(), "base", &Limits::default()).expect("a file of the conformance set");
        if let Err(error) = file.attach(File::new(base)) {
            one_line(&error);
        }
    }
    let (tensors, assets): (Vec<&str>, Vec<&str>) = (file.tensor_names().collect(), file.asset_names().collect());
    for name in tensors {
        let tensor = match file.tensor(name) {
            Ok(tensor) => tensor,
            Err(error) => {
                one_line(&error);
                continue;
            }
        };
        let (rows, columns) = (tensor.matrix().rows(), tensor.matrix().cols());
        match tensor.bytes() {
            Err(error) => one_line(&error),
            Ok(bytes) => {
                let size = tensor.dtype().size() as u64;
                assert_eq!(bytes.len() as u64, rows * columns * size);
                if !bytes.is_empty() {
                    let band = (rows / 3..rows / 2 + 1, columns / 3..columns / 2 + 1);
                    let part = tensor.band(band.0.clone(), band.1.clone()).expect("a part of what decodes");
                    assert_eq!(part, cut(&bytes, columns, size, band.0, band.1));
                }
            }
        }
    }
    for name in assets {
        if let Err(error) = file.asset(name) {
            one_line(&error);
        }
    }
    match verify(&file) {
        Err(error @ (FileError::MemoryLimit { .. } | FileError::NoBase { .. })) => one_line(&error),
        Err(error) => panic!("memory does not fail: {error}"),
        Ok(verdict) => assert!(verdict.damaged.is_empty(), "the hashes were set right: {:?}", verdict.damaged),
    }
}

/// Returns a band of a matrix with rows of `columns` elements of `size` bytes.
pub fn cut(bytes: &[u8], columns: u64, size: u64, rows: Range<u64>, band: Range<u64>) -> Vec<u8> {
    let row = |r: u64| {
        let begin = ((r * columns + band.start) * size) as usize;
        &bytes[begin..begin + ((band.end - band.start) * size) as usize]
    };
    rows.flat_map(|r| row(r).to_vec()).collect()
}

/// Returns the file with correct hashes of its present units, roots and lengths; `None` if its manifest is invalid. The root of
/// its base, if it has one, is that of [`BASE`].
pub fn with_hashes(data: &[u8]) -> Option<Vec<u8>> {
    let declared = u64::from_le_bytes(*data.get(16..24)?.first_chunk()?);
    let rest = data.get(Header::SIZE..)?;
    let old = &rest[..rest.len().min(usize::try_from(declared).ok()?)];
    let mut manifest = Manifest::parse(old, &Limits::default()).ok()?;
    let layout = Layout::new(&manifest, old.len() as u64).ok()?;
    if let Some(base) = &mut manifest.base {
        base.root = Header::read(BASE).ok()?.root;
    }
    for (unit, entry) in manifest.units.iter_mut().enumerate() {
        let range = layout.places().unit(unit as u32)?;
        let bytes = data.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        entry.hash = bytes.map_or([0; 16], unit_hash);
    }
    // The manifest is written again, and is shorter if unknown records were skipped; the units move with it.
    let bytes = manifest.to_bytes();
    let places = Layout::new(&manifest, bytes.len() as u64).ok()?;
    let mut out = header_of(&bytes, &places);
    for unit in 0..manifest.units.len() as u32 {
        let (from, to) = (layout.places().unit(unit)?, places.places().unit(unit)?);
        let Some(unit) = data.get(usize::try_from(from.start).ok()?..usize::try_from(from.end).ok()?) else { break };
        out.resize(usize::try_from(to.start).ok()?, 0);
        out.extend(unit);
    }
    Some(out)
}

/// The dtypes of a tile, in the order of their numbers in an input.
fn dtypes() -> Vec<DType> {
    [&DType::PLAIN[..], &DType::BLOCKS[..]].concat()
}

/// Returns the dtype with a number; every number gives one.
fn dtype_of(number: u8) -> DType {
    let dtypes = dtypes();
    dtypes[usize::from(number) % dtypes.len()]
}

/// Reads the place of a tile: first row, rows, first column, columns; at least one of each, and not too many.
fn place_of([top, height, left, width]: [u8; 4]) -> Place {
    let (top, left) = (usize::from(top), usize::from(left));
    Place { rows: top..top + usize::from(height).clamp(1, 32), columns: left..left + usize::from(width).clamp(1, 130) }
}

/// Returns what makes the decoder of a tile, and base elements for it, made of some bytes, if it is one of a delta.
fn maker(is_delta: bool, dtype: DType, place: &Place, bytes: &[u8]) -> (Maker, Option<Vec<u8>>) {
    let bytes = bytes.iter().rev().copied().chain([0x40]).cycle();
    let elements = is_delta.then(|| bytes.take(place.elements() * dtype.size()).collect());
    (if is_delta { TileDecoder::delta } else { TileDecoder::new }, elements)
}

type Maker = fn(DType, Vec<TensorHeader>, Isa) -> Result<TileDecoder, CodecError>;

/// Decodes the input as a tile: dtype, mode, geometry, tensor header, unit; over a base, whose elements are the bytes of the unit
/// again, if the last byte of the geometry is 128 more. See [`tile_input`].
pub fn tile(data: &[u8]) {
    let mut rest = data;
    let Some([dtype, mode, place @ .., pad]) = take::<7>(&mut rest) else { return };
    let Some(header_length) = take(&mut rest).map(u16::from_le_bytes) else { return };
    let (dtype, mode, place) = (dtype_of(dtype), Mode(mode), place_of(place));
    let (header, unit) = rest.split_at(rest.len().min(header_length.into()));
    let header = match TensorHeader::read(header, dtype, place.rows.end as u64, place.columns.end as u64) {
        Ok(header) => {
            let again = TensorHeader::read(&header.to_bytes(), dtype, place.rows.end as u64, place.columns.end as u64);
            assert_eq!(again.as_ref(), Ok(&header));
            Some(header)
        }
        Err(error) => {
            one_line(&error);
            None
        }
    };
    let row_bytes = place.columns.len() * dtype.size();
    let stride = row_bytes + usize::from(pad % 8);
    let (make, elements) = maker(pad & DELTA != 0, dtype, &place, unit);
    let decode = |isa| {
        let headers = header.clone().into_iter().collect();
        let decoder = make(dtype, headers, isa).map_err(|error| one_line(&error)).ok()?;
        let units = [Unit { mode, bytes: unit }];
        let mut out = vec![0xA5; place.rows.len() * stride];
        let result = decoder.decode_predicted(&units, elements.as_deref(), &place, &mut out, stride);
        for row in out.chunks_exact(stride) {
            assert!(row[row_bytes..].iter().all(|&b| b == 0xA5), "bytes between rows were touched");
        }
        let mut integers = vec![0; place.elements()];
        let lattice =
            (mode == Mode::LATTICE).then(|| decoder.integers(&units, &place, &mut integers, place.columns.len()));
        if let Some(lattice) = &lattice {
            assert_eq!(lattice.is_ok(), result.is_ok());
        }
        Some(result.map(|()| (out, integers)).inspect_err(one_line))
    };
    drop(same_everywhere(decode));
}

/// The bit of an input that says that a tile is over a base.
const DELTA: u8 = 128;

/// Returns an input of [`tile`] that is over a base, from one that is not.
pub fn tile_over(mut input: Vec<u8>) -> Vec<u8> {
    input[6] |= DELTA;
    input
}

/// Returns an input of [`layers`] that is over a base, from one that is not.
pub fn layers_over(mut input: Vec<u8>) -> Vec<u8> {
    input[0] |= DELTA;
    input
}

/// Returns an input of [`tile`].
pub fn tile_input(dtype: DType, mode: Mode, place: &Place, header: &[u8], unit: &[u8]) -> Vec<u8> {
    let code = dtypes().iter().position(|&d| d == dtype).unwrap_or(0) as u8;
    let (top, left) = (place.rows.start as u8, place.columns.start as u8);
    let mut out = vec![code, mode.0, top, place.rows.len() as u8, left, place.columns.len() as u8, 3];
    out.extend((header.len() as u16).to_le_bytes());
    [&out, header, unit].concat()
}

/// Decodes the input as the layers of a tile, from layer 0 up: dtype and geometry, then the mode, tensor header and
/// unit of each layer; over a base, whose elements are the bytes of these, if the dtype is 128 more. See [`layers_input`].
pub fn layers(data: &[u8]) {
    let mut rest = data;
    let Some([dtype, place @ ..]) = take::<5>(&mut rest) else { return };
    let (is_delta, dtype, place) = (dtype & DELTA != 0, dtype_of(dtype & !DELTA), place_of(place));
    let (make, elements) = maker(is_delta, dtype, &place, rest);
    let (mut headers, mut units) = (vec![], vec![]);
    while let Some([mode, header @ .., a, b]) = take::<5>(&mut rest) {
        let mut part = |length: [u8; 2]| {
            let (part, left) = rest.split_at(rest.len().min(u16::from_le_bytes(length).into()));
            rest = left;
            part
        };
        let (header, bytes) = (part(header), part([a, b]));
        match TensorHeader::read(header, dtype, place.rows.end as u64, place.columns.end as u64) {
            Ok(header) => headers.push(header),
            Err(error) => return one_line(&error),
        }
        units.push(Unit { mode: Mode(mode), bytes });
    }
    let row_bytes = place.columns.len() * dtype.size();
    let decode = |isa| {
        let decoder = make(dtype, headers.clone(), isa).inspect_err(one_line)?;
        let up_to = |n: usize| {
            let (mut out, mut integers) = (vec![0; place.rows.len() * row_bytes], vec![0; place.elements()]);
            let result = decoder.decode_predicted(&units[..n], elements.as_deref(), &place, &mut out, row_bytes);
            let result = result.inspect_err(one_line);
            let found = decoder.integers(&units[..n], &place, &mut integers, place.columns.len());
            // If a tile decodes to weights, it also decodes to integers; an exact layer above them may be invalid on
            // its own.
            assert!(result.is_err() || found.is_ok() || units[0].mode != Mode::LATTICE);
            result.map(|()| (out, integers))
        };
        Ok::<_, CodecError>((1..=units.len()).map(up_to).collect::<Vec<_>>())
    };
    drop(same_everywhere(decode));
}

/// Returns an input of [`layers`].
pub fn layers_input(dtype: DType, place: &Place, layers: &[(Mode, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let code = dtypes().iter().position(|&d| d == dtype).unwrap_or(0) as u8;
    let (top, left) = (place.rows.start as u8, place.columns.start as u8);
    let mut out = vec![code, top, place.rows.len() as u8, left, place.columns.len() as u8];
    for (mode, header, unit) in layers {
        out.push(mode.0);
        out.extend([header, unit].iter().flat_map(|part| (part.len() as u16).to_le_bytes()));
        out.extend([header, unit].iter().copied().flatten());
    }
    out
}

/// Uses the input as a segment to decode (see [`entropy_input`]), and as values to encode and decode.
pub fn entropy(data: &[u8]) {
    let mut rest = data;
    let Some([kind, shape, width, height]) = take(&mut rest) else { return };
    let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
    let (width, height) = (usize::from(width).clamp(1, 130), usize::from(height).clamp(1, 16));
    let tables = match shape {
        255 => read_explicit(kind, &mut rest).unwrap_or_default(),
        _ => parametric(kind, shape % 5).unwrap_or_default(),
    };
    if tables.len() != kind.tables() {
        return;
    }
    let Some((classes, rest)) = rest.split_at_checked(2 * (width + height)) else { return };
    let classes: Vec<i32> = classes.as_chunks::<2>().0.iter().map(|&b| i16::from_le_bytes(b).into()).collect();
    let (rows, columns) = classes.split_at(height);
    let lut = Lut::new(kind, &tables);
    if let Some((states, words)) = rest.split_at_checked(4 * LANES) {
        let mut lanes = [0; LANES];
        lanes.iter_mut().zip(states.as_chunks::<4>().0).for_each(|(x, &b)| *x = u32::from_le_bytes(b));
        // An odd last byte is not a word; units of the container give whole words only.
        let words = &words[..words.len() & !1];
        let allowed = lanes.iter().all(|&x| x >= LOW);
        assert_eq!(decode_all(&lut, lanes, words, rows, columns).is_some(), allowed);
    }
    round_trip(kind, &tables, &lut, rows, columns, rest);
}

/// Returns an input of [`entropy`] with the tables of a shape.
pub fn entropy_input(kind: Kind, shape: u8, rows: &[i16], columns: &[i16], states: &[u32], words: &[u16]) -> Vec<u8> {
    let mut out = vec![kind as u8, shape, columns.len() as u8, rows.len() as u8];
    out.extend(rows.iter().chain(columns).flat_map(|c| c.to_le_bytes()));
    out.extend(states.iter().flat_map(|x| x.to_le_bytes()));
    out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    out
}

/// Decodes the input as a unit in mode transform, after the sides of its tile and the dtype (see [`transform_input`]); with a
/// reference, whose elements are the bytes of the unit again, if the dtype is 128 more.
pub fn transform(data: &[u8]) {
    let mut rest = data;
    let Some([height, width, dtype]) = take(&mut rest) else { return };
    let (height, width) = (usize::from(height).clamp(1, 130), usize::from(width).clamp(1, 130));
    let has_reference = dtype & 128 != 0;
    let dtype = [DType::F32, DType::F16, DType::Bf16][usize::from(dtype & 127) % 3];
    let header = TensorHeader {
        shape: Shape::Parametric(0),
        plane: 0,
        row_classes: IndexArray::Constant(0),
        column_classes: IndexArray::Constant(0),
        body: HeaderBody::Lattice(Steps { columns: Some(IndexArray::Constant(7)), ..Steps::new(1e30) }),
    };
    let place = Place { rows: 0..height, columns: 0..width };
    let bytes = rest.iter().copied().chain([0x40]).cycle();
    let elements: Option<Vec<u8>> = has_reference.then(|| bytes.take(height * width * dtype.size()).collect());
    let (elements, steps) = (elements.as_deref(), header.steps().expect("of kind lattice"));
    let reference = elements.map(|elements| Reference { elements, dtype, steps, place: &place });
    let decode = |unit: &[u8]| decode_layers(&[unit], [height, width], steps.step, reference.as_ref());
    let decoded = decode(rest);
    let weights = |isa| {
        let decoder = TileDecoder::new(dtype, vec![header.clone()], isa).expect("a tensor header");
        let mut out = vec![0; height * width * dtype.size()];
        let unit = [Unit { mode: Mode::TRANSFORM, bytes: rest }];
        decoder.decode_predicted(&unit, elements, &place, &mut out, width * dtype.size()).map(|()| out)
    };
    let all: Vec<_> = Isa::available().into_iter().map(weights).collect();
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    let Ok((_, samples)) = decoded else {
        one_line(&all[0].as_ref().expect_err("the unit is invalid"));
        return;
    };
    assert!(samples.values.iter().all(|sample| sample.unsigned_abs() <= 1 << 29));
    // In one layer or two, the planes of a tile are the same.
    if let Some(all) = progressive::planes(rest, height, width).expect("the unit is valid") {
        let layers = progressive::split(rest, height, width, &[all / 2, all]).expect("two layers");
        let [below, above] = &layers[..] else { panic!("not two layers") };
        let together = decode_layers(&[below, above], [height, width], 1.0, None);
        assert_eq!(together.expect("the layers are valid").1, samples);
    }
    // The code ends where it says.
    assert!(decode(&[rest, &[0]].concat()).is_err());
    assert!(decode(&rest[..rest.len() - 1]).is_err());
}

/// Returns an input of [`transform`].
pub fn transform_input(height: u8, width: u8, dtype: u8, unit: &[u8]) -> Vec<u8> {
    [&[height, width, dtype], unit].concat()
}

/// Values of rows, with `None` for an escape; `None` instead of rows after the words end.
type Values = Option<Vec<Option<i32>>>;

/// Decodes a segment `batch` rows at a time. Returns the values, and whether the segment ended as required.
fn segment(mut decoder: Decoder, rows: &[i32], columns: &[i32], batch: usize) -> (Vec<Values>, bool) {
    let columns = Columns::new(columns.to_vec());
    let mut decoded = Vec::new();
    for rows in rows.chunks(batch) {
        let (mut values, mut escapes) = (vec![0; rows.len() * columns.padded()], Vec::new());
        if decoder.rows(rows, &columns, &mut values, &mut escapes).is_err() {
            decoded.push(None);
            return (decoded, false);
        }
        assert!(escapes.is_sorted_by(|a, b| a < b));
        let mut values: Vec<Option<i32>> = values.into_iter().map(Some).collect();
        escapes.iter().for_each(|&at| values[at as usize] = None);
        decoded.push(Some(
            values.chunks_exact(columns.padded()).flat_map(|row| row[..columns.width()].to_vec()).collect(),
        ));
    }
    (decoded, decoder.is_finished())
}

/// Decodes a segment with every instruction set and in batches of several sizes. Returns `None` if a lane state is not
/// allowed; otherwise the values of all rows, and whether the segment ended as required.
fn decode_all(lut: &Lut, lanes: [u32; LANES], words: &[u8], rows: &[i32], columns: &[i32]) -> Option<(Values, bool)> {
    let mut results = Vec::new();
    for batch in [1, 3, rows.len()] {
        let decode = |isa| Some(segment(Decoder::new(isa, lut, lanes, words)?, rows, columns, batch));
        let (decoded, finished) = same_everywhere(decode)?;
        let values: Values = decoded.into_iter().collect::<Option<Vec<_>>>().map(|v| v.concat());
        results.push((values, finished));
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "rows depend on how many are decoded together");
    results.pop()
}

/// Encodes bytes as values, and decodes them with every instruction set.
fn round_trip(kind: Kind, tables: &[Frequencies], lut: &Lut, rows: &[i32], columns: &[i32], bytes: &[u8]) {
    let value = |i: usize| match bytes.get(i * 2..i * 2 + 2) {
        // Most values are small, some are arbitrary.
        Some(&[a, b]) if b < 240 => i32::from(a as i8) >> (b & 7),
        Some(&[a, b]) => i32::from_le_bytes([a, b, a, b]),
        _ => 0,
    };
    let mut values: Vec<i32> = (0..rows.len() * columns.len()).map(value).collect();
    if kind == Kind::Float {
        values.iter_mut().for_each(|v| *v &= 0x3FF);
    }
    let Some(coded) = encode_segment(kind, rows, columns, &values, tables) else { return };
    let words: Vec<u8> = coded.words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let (decoded, finished) = decode_all(lut, coded.states, &words, rows, columns).expect("states of the encoder");
    assert!(finished);
    let mut escapes = &coded.escapes[..];
    for (got, value) in decoded.expect("words of the encoder").into_iter().zip(values) {
        let got = got.unwrap_or_else(|| {
            let code = varint::read(&mut escapes).expect("an escape") as u32;
            escape_value(kind, code)
        });
        assert_eq!(got, value);
    }
    assert!(escapes.is_empty());
}

/// Runs `decode` with every instruction set of this processor, which must all give the same result.
fn same_everywhere<T: PartialEq + std::fmt::Debug>(mut decode: impl FnMut(Isa) -> T) -> T {
    let scalar = decode(Isa::Scalar);
    for isa in Isa::available() {
        assert_eq!(decode(isa), scalar, "{isa:?} differs from the scalar reference");
    }
    scalar
}

/// Checks that a message is one line, even if it contains untrusted names.
fn one_line(error: &impl std::fmt::Display) {
    let message = error.to_string();
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
}

/// Takes the input as a `tokenizer.json` or, if it does not begin with a brace, as a compiled form; the bytes after the
/// last 0xFF are a text, and ids.
pub fn tokenizer(data: &[u8]) {
    let end = data.iter().rposition(|&byte| byte == 0xFF).unwrap_or(data.len());
    let (asset, rest) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let loaded = match asset.first() {
        Some(b'{') => Tokenizer::from_json(asset),
        _ => Tokenizer::from_compiled(asset),
    };
    let tokenizer = match loaded {
        Ok(tokenizer) => tokenizer,
        Err(error) => return one_line(&error),
    };
    let text = String::from_utf8_lossy(rest);
    let ids = tokenizer.encode(&text, true).unwrap_or_else(|error| {
        one_line(&error);
        rest.iter().map(|&byte| byte.into()).collect()
    });
    let decoded = tokenizer.decode(&ids, true);
    assert_eq!(tokenizer.decode(&ids, true).ok(), decoded.as_ref().ok().cloned(), "twice");
    decoded.err().iter().for_each(one_line);
    let mut stream = tokenizer.stream(&ids);
    ids.iter().take(16).for_each(|&id| drop(stream.push(id)));
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Parses the input as a chat template, and renders it if it is too small to exhaust memory. (Larger ones are rendered in
/// a limited process, which a fuzzer cannot see into.)
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let template = match ChatTemplate::new(text, serde_json::Map::new(), None) {
        Ok(template) => template,
        Err(error) => return one_line(&error),
    };
    let has_large_numbers = text.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() > 3);
    if text.len() > 256
        || has_large_numbers
        || ["*", "for", "macro", "call", "namespace"].iter().any(|s| text.contains(s))
    {
        return;
    }
    let messages = [Message::new("user", "a\u{e9} %s <b>"), Message::new("assistant", " two\nlines ")];
    let variables = serde_json::json!({"n": 12, "x": -1.5, "list": [1, "b", null], "map": {"b": 1, "a": true}});
    let variables = variables.as_object().expect("an object").clone();
    let options = ChatOptions { variables, ..ChatOptions::default() };
    if let Err(error) = template.render(&messages, &options) {
        one_line(&error);
    }
}

/// Takes the first byte as the form of calls, the second as the length of pieces, and the rest as the text of a model.
/// However it is cut, it is read in the same way; arguments are objects, and a text without calls is unchanged.
pub fn calls(data: &[u8]) {
    let [form, length, text @ ..] = data else { return };
    let text = String::from_utf8_lossy(text);
    let formats = [ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::Xml];
    let parser = || {
        let parser = ToolParser::new(formats.get(usize::from(form & 7)).copied());
        match form >> 3 & 3 {
            0 => parser,
            open => parser.with_reasoning(open == 1),
        }
    };
    let characters: Vec<char> = text.chars().collect();
    let pieces = characters.chunks(usize::from(*length).max(1)).map(String::from_iter);
    let in_pieces = read_calls(parser(), pieces);
    let events = read_calls(parser(), [text.clone().into_owned()]);
    assert_eq!(events, in_pieces);
    for event in &events {
        if let ToolEvent::Arguments { delta, .. } = event {
            let json: &serde_json::value::RawValue = serde_json::from_str(delta).expect("arguments are JSON");
            assert!(json.get().starts_with('{'), "{delta}");
        }
    }
    if form >> 3 & 3 == 0 && !events.iter().any(|event| matches!(event, ToolEvent::Begin { .. })) {
        let written: Vec<ToolEvent> =
            if text.is_empty() { Vec::new() } else { vec![ToolEvent::Text(text.into_owned())] };
        assert_eq!(events, written);
    }
}

/// The events of a text in pieces, with neighbouring texts joined.
fn read_calls(mut parser: ToolParser, pieces: impl IntoIterator<Item = String>) -> Vec<ToolEvent> {
    let mut events: Vec<ToolEvent> = pieces.into_iter().flat_map(|piece| parser.push(&piece)).collect();
    events.extend(parser.finish());
    events.into_iter().fold(Vec::new(), |mut joined, event| {
        match (joined.last_mut(), event) {
            (Some(ToolEvent::Text(before)), ToolEvent::Text(text))
            | (Some(ToolEvent::Reasoning(before)), ToolEvent::Reasoning(text)) => before.push_str(&text),
            (_, event) => joined.push(event),
        }
        joined
    })
}

/// Takes the input as JSON: as a message, as the description of a function and as a choice of functions.
pub fn message(data: &[u8]) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    _ = serde_json::from_value::<ToolChoice>(json.clone());
    match tools::function(&json) {
        Ok((name, parameters)) => assert!(!name.is_empty() && parameters.is_object()),
        Err(error) => one_line(&error),
    }
    let Ok(message) = serde_json::from_value::<Message>(json) else { return };
    let again = serde_json::to_value(&message).and_then(serde_json::from_value::<Message>);
    assert_eq!(again.expect("a message is written as it is read"), message);
    let plain = tools::without_tools(std::slice::from_ref(&message), &[]);
    assert!(plain.iter().all(|message| message.tool_calls.is_empty()));
}
