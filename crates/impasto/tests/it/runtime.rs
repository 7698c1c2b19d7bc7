//! Running files in each residence, compared with the binary32 reference.

use std::borrow::Cow;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::{open, tiny};
use impasto::encode::{Extent, Layers, Options, Preset, Residual, Target, Trellis, encode};
use impasto::{Checkpoint, CheckpointWeights, Cut, File, FileWeights};
use impasto_container::{Limits, Reader, Source};
use impasto_core::DType;
use impasto_model::{KvCache, LatticeRows, LowRankFactors, ModelError, Want, WeightSource};
use impasto_runtime::{Activations, KvFormat, KvLayout, Model, Residence, RunOptions, RuntimeError};

const TOKENS: [u32; 40] = [
    5, 17, 300, 2, 44, 800, 1, 9, 73, 512, 6, 31, 250, 77, 3, 12, 600, 41, 8, 90, 100, 4, 21, 333, 18, 7, 66, 410, 29,
    11, 50, 13, 222, 35, 10, 144, 15, 81, 14, 27,
];

/// Encodes the tiny model with 32-bit float weights at `bits`, with layers `below` it and, if `exact`, an exact layer
/// on top.
fn encoded(folder: &Path, bits: f64, below: &[f64], exact: bool) -> File {
    let path = folder.join("tiny.impasto");
    let below = below.iter().map(|&bits| Extent::BitsPerWeight(bits)).collect();
    let layers = Layers { below, exact, ..Layers::default() };
    encode_with(
        &crate::support::Model::wide_tiny().path,
        &path,
        &Options { layers, ..Options::new(Target::BitsPerWeight(bits)) },
    );
    open(&path)
}

fn encode_with(model: &Path, file: &Path, options: &Options) {
    encode(&Checkpoint::open(model).expect("a good checkpoint"), file, options, &|_| ControlFlow::Continue(()))
        .expect("encodes");
}

fn float() -> RunOptions {
    RunOptions { threads: 2, ..RunOptions::float() }
}

/// Packed residence in which only the weights are rounded.
fn packed() -> RunOptions {
    let kv = KvLayout::uniform(KvFormat::F32);
    RunOptions { threads: 2, kv, activations: Activations::F32, ..RunOptions::default() }
}

fn load(file: &Arc<File>, options: &RunOptions) -> Model {
    Model::load(&FileWeights::new(file.clone()).expect("assets"), options).expect("a model")
}

fn logits(model: &Model) -> Vec<f32> {
    let mut cache = model.network().new_cache(0).expect("a cache");
    model.network().forward(&mut cache, &TOKENS, Want::All).expect("runs")
}

/// Returns the root mean square of the difference over that of the reference.
fn error(got: &[f32], reference: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let difference = square(&mut got.iter().zip(reference).map(|(a, b)| a - b));
    (difference / square(&mut reference.iter().copied())).sqrt()
}

/// Tolerance for a different order of summation.
const ORDER: f64 = 1e-5;

#[test]
fn residences_agree_on_every_layer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = encoded(folder.path(), 5.0, &[2.5, 3.5], true);
    // In the middle of a layer, tile rows are at two different levels.
    let cuts = [None, Some(Cut::BitsPerWeight(4.2)), Some(Cut::Layer(3)), Some(Cut::Layer(2)), Some(Cut::Layer(1))];
    for cut in cuts {
        if let Some(cut) = &cut {
            file = open(&folder.path().join("tiny.impasto"));
            file.cut(cut).expect("cuts");
        }
        let shared = Arc::new(file);
        let reference = logits(&load(&shared, &float()));
        let coded = RunOptions { residence: Residence::Coded, ..packed() };
        let (ours, coded) = (load(&shared, &packed()), load(&shared, &coded));
        let worst = (error(&logits(&ours), &reference), error(&logits(&coded), &reference));
        println!("{cut:?}: packed {:.1e}, coded {:.1e}, {} bytes", worst.0, worst.1, ours.memory_bytes());
        assert!(worst.0 < ORDER && worst.1 < ORDER, "{cut:?}: {worst:?}");
        // The exact file has no integers; packed ones take at most a byte per weight.
        let bytes = shared.weights() as usize;
        assert_eq!(ours.memory_bytes() > bytes, cut.is_none(), "{cut:?}: {} bytes", ours.memory_bytes());
        file = Arc::try_unwrap(shared).unwrap_or_else(|shared| {
            drop((ours, coded));
            Arc::try_unwrap(shared).ok().expect("the models are gone")
        });
    }
}

/// Runs a file coded and packed, with the logits of its floats. Returns the shares of their memory that its weights take.
fn shares_of_floats(file: &Arc<File>) -> [f64; 2] {
    let reference = load(file, &float());
    let wanted = logits(&reference);
    [Residence::Coded, Residence::Packed].map(|residence| {
        let model = load(file, &RunOptions { residence, ..packed() });
        let error = error(&logits(&model), &wanted);
        assert!(error < ORDER, "{residence:?}: {error}");
        model.memory_bytes() as f64 / reference.memory_bytes() as f64
    })
}

/// Low-rank parts, of the weights in a file with layers and of the error of rounding, run as thin products beside the packed
/// integers: the sums are those of the dense matrix.
#[test]
fn low_rank_parts_run_beside_packed_integers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    let model = &crate::support::Model::wide_tiny().path;
    let own = || Options::new(Target::BitsPerWeight(4.0));
    let layers = Layers { below: vec![Extent::BitsPerWeight(2.5)], ..Layers::default() };
    for (options, least) in
        [(Options { layers, ..own() }, 1), (Options { residual: Residual::LowRank(6), ..own() }, 40)]
    {
        encode_with(model, &path, &options);
        let file = Arc::new(open(&path));
        let names = (0..file.reader().objects().len()).filter_map(|i| {
            let object = &file.reader().objects()[i];
            object.tensor().filter(|meta| meta.tied.is_none()).map(|_| object.name.clone())
        });
        let parts = names.filter(|name| {
            let tensor = file.tensor(name).expect("a tensor");
            tensor.header().and_then(|header| header.steps()).is_some_and(|steps| steps.low_rank.is_some())
        });
        assert!(parts.count() >= least);
        // The matrices stay packed, or coded.
        let shares = shares_of_floats(&file);
        assert!(shares.iter().all(|&share| share < 0.25), "{shares:?}");
    }
}

/// Integers on a trellis are integers like any: they run packed, and coded.
#[test]
fn a_trellis_runs_as_its_floats() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    let own = Options { trellis: Trellis::new(3), ..Options::new(Target::BitsPerWeight(4.0)) };
    encode_with(&crate::support::Model::wide_tiny().path, &path, &own);
    let shares = shares_of_floats(&Arc::new(open(&path)));
    assert!(shares.iter().all(|&share| share < 0.3), "{shares:?}");
}

/// A file of the preset of JPEG runs from its units: a tile is decoded and transformed in each product.
#[test]
fn a_jpeg_file_runs_coded_and_packed_as_its_floats() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    let options = Options { preset: Preset::Jpeg, ..Options::new(Target::BitsPerWeight(5.0)) };
    encode_with(&tiny(), &path, &options);
    let file = Arc::new(open(&path));
    let projection = file.tensor("model.layers.0.mlp.up_proj.weight").expect("a tensor");
    assert!(projection.header().is_some());
    // Weights are the units of the file, or 16-bit floats.
    let [coded, packed] = shares_of_floats(&file);
    assert!((0.1..0.4).contains(&coded) && (0.45..0.6).contains(&packed), "{coded} {packed}");
}

/// Under coded residence, every pass reads the file.
#[test]
#[cfg(unix)]
fn a_file_that_becomes_shorter_is_an_error_of_the_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Arc::new(encoded(folder.path(), 5.0, &[], false));
    let model = load(&file, &RunOptions { residence: Residence::Coded, ..packed() });
    logits(&model);
    let path = folder.path().join("tiny.impasto");
    let length = std::fs::metadata(&path).expect("there").len();
    std::fs::OpenOptions::new().write(true).open(&path).expect("opens").set_len(length / 2).expect("shortens");
    let mut cache = model.network().new_cache(0).expect("a cache");
    let error = model.network().forward(&mut cache, &TOKENS, Want::All).expect_err("it is shorter");
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    assert!(message.contains("tiny.impasto: it became shorter while it was read"), "{message}");
}

#[test]
fn rounding_costs_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Arc::new(encoded(folder.path(), 5.0, &[], false));
    let reference = logits(&load(&file, &packed()));
    let with = |activations, kv: &str| {
        let kv = kv.parse().expect("a layout");
        error(&logits(&load(&file, &RunOptions { activations, kv, ..packed() })), &reference)
    };
    let int8 = with(Activations::Int8, "f32");
    assert!((1e-4..0.03).contains(&int8), "activations: {int8}");
    let kv = ["f16", "int8", "k=f16,v=int4", "int4"].map(|kv| with(Activations::F32, kv));
    println!("int8 activations {int8:.1e}; keys and values {kv:?}");
    assert!(kv[0] < 1e-3 && kv.is_sorted() && kv[3] < 0.2, "{kv:?}");
    assert!(with(Activations::F32, "int4,0-5=f32") < 1e-9, "overrides");
}

#[test]
fn packed_integers_are_those_of_the_file() {
    use impasto_kernels::packed::{ColumnOrder, PackedMatrix, RowGroup};
    let folder = tempfile::tempdir().expect("a folder");
    let file = encoded(folder.path(), 4.0, &[], false);
    let weights = FileWeights::new(file).expect("assets");
    let mut matrices = 0;
    for name in
        ["model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight", "model.layers.3.self_attn.k_proj.weight"]
    {
        let lattice = weights.lattice(name).expect("reads").expect("a lattice");
        let columns = ColumnOrder::new(lattice.column_steps(), lattice.column_widths()).expect("columns");
        let (mut all, mut groups) = (Vec::new(), Vec::new());
        for tile_row in 0..lattice.tile_rows().len() {
            let mut read = LatticeRows::default();
            lattice.read(tile_row, &mut read).expect("reads");
            groups.push(RowGroup::pack(&read.integers, &columns, &read.row_steps, &read.row_widths, 0).expect("packs"));
            all.extend(read.integers.iter().copied());
        }
        let [outputs, inputs] = lattice.shape();
        let packed = PackedMatrix::new(columns, groups).expect("a matrix");
        let values = weights.load_f32(name).expect("loads");
        let (mut integers, mut row) = (vec![0; inputs], vec![0.0; inputs]);
        for r in 0..outputs {
            packed.integers(r, &mut integers);
            assert_eq!(integers, all[r * inputs..(r + 1) * inputs], "{name} row {r}");
            packed.row(r, &mut row);
            let alone = row.clone();
            add_low_rank(lattice.low_rank().as_ref(), r, &mut row);
            // The same product in a different order; what is added to it may cancel it.
            for (c, wanted) in values[r * inputs..][..inputs].iter().enumerate() {
                let size = alone[c].abs() + (row[c] - alone[c]).abs();
                assert!((row[c] - wanted).abs() <= size * 2.0 * f32::EPSILON, "{name} row {r}");
            }
        }
        matrices += 1;
    }
    assert_eq!(matrices, 3);
}

/// Adds a row of a matrix of low rank.
fn add_low_rank(part: Option<&LowRankFactors>, row: usize, out: &mut [f32]) {
    let Some(LowRankFactors { left, scales, right }) = part else { return };
    let rank = scales.len();
    for (k, scale) in scales.iter().enumerate() {
        let factor = f32::from(left[row * rank + k]) * scale;
        let columns = &right[k * out.len()..(k + 1) * out.len()];
        out.iter_mut().zip(columns).for_each(|(out, &column)| *out += factor * f32::from(column));
    }
}

/// A file in memory that records which ranges are released.
struct Recording {
    bytes: Vec<u8>,
    released: Mutex<Vec<Range<u64>>>,
}

impl Source for Recording {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        self.bytes.read_at(offset, len)
    }

    fn release(&self, range: Range<u64>) {
        self.released.lock().expect("no panic").push(range);
    }
}

#[test]
fn packing_gives_coded_units_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    drop(encoded(folder.path(), 5.0, &[3.0], false));
    let bytes = std::fs::read(&path).expect("a file");
    let source = Arc::new(Recording { bytes, released: Mutex::default() });
    let file = Arc::new(File::new(Reader::open(source.clone(), "tiny", &Limits::default()).expect("opens")));
    let load =
        |options: &RunOptions| Model::load(&FileWeights::new(file.clone()).expect("assets"), options).expect("a model");
    let released = || std::mem::take(&mut *source.released.lock().expect("no panic"));
    load(&RunOptions { residence: Residence::Coded, ..packed() });
    let coded = released();
    let model = load(&packed());
    let found = released();
    let reader = file.reader();
    let mut units = 0;
    for name in file.tensor_names() {
        let object = reader.find_tensor(name).expect("a tensor");
        let matrix = reader.matrix(object).expect("a matrix");
        for unit in reader.units_of_band(object, 0..matrix.rows(), 0..matrix.cols()).expect("units") {
            let range = reader.unit_range(unit).expect("a place");
            assert!(found.contains(&range), "{}", reader.unit_place(unit));
            // Units that run coded are read for each token.
            assert!(!coded.contains(&range) || matrix.rows() == 1, "{}", reader.unit_place(unit));
            units += 1;
        }
    }
    assert!(units > 100, "{units} units");
    assert_eq!(logits(&load(&packed())), logits(&model), "what was given back can be read again");
}

#[test]
fn halves_are_the_bits_of_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    encode_with(&tiny(), &path, &Options::new(Target::Lossless));
    let weights = FileWeights::new(open(&path)).expect("assets");
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert!(weights.lattice(name).expect("reads").is_none());
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny opens");
    let original = CheckpointWeights::new(&checkpoint);
    let values = weights.load_f32(name).expect("loads");
    for source in [&weights as &dyn WeightSource, &original] {
        let halves = source.halves(name).expect("reads").expect("tiny is bf16");
        assert_eq!(halves.dtype(), DType::Bf16);
        let [_, inputs] = halves.shape();
        let mut bits = Vec::new();
        for (tile_row, rows) in halves.tile_rows().into_iter().enumerate() {
            let mut part = vec![0; rows.len() * inputs];
            halves.read(tile_row, &mut part).expect("reads");
            assert!(halves.read(tile_row, &mut part[1..]).is_err());
            bits.append(&mut part);
        }
        assert!(bits.iter().map(|&b| f32::from_bits(u32::from(b) << 16)).eq(values.iter().copied()));
    }
}

/// The packed network gives the same results however tokens are split into passes.
#[test]
fn sequences_run_alone_together_and_in_pieces() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Arc::new(encoded(folder.path(), 5.0, &[], false));
    for residence in [Residence::Packed, Residence::Coded] {
        let options = RunOptions { residence, ..RunOptions::default() };
        let model = load(&file, &RunOptions { threads: 1, ..options.clone() });
        let net = model.network();
        let vocab = net.vocab_size();
        let all = logits(&model);
        let row = |t: usize| &all[t * vocab..(t + 1) * vocab];
        for threads in [2, 3] {
            let other = load(&file, &RunOptions { threads, ..options.clone() });
            assert!(logits(&other) == all, "{threads} threads give other bits");
        }
        // One token at a time, and again after truncation.
        let (mut cache, mut one) = (net.new_cache(0).expect("a cache"), Vec::new());
        for (t, token) in TOKENS.iter().enumerate() {
            net.next_logits(&mut cache, &[*token], &mut one).expect("runs");
            assert!(error(&one, row(t)) < 1e-3, "token {t}: {}", error(&one, row(t)));
        }
        cache.truncate(11);
        net.next_logits(&mut cache, &TOKENS[11..30], &mut one).expect("runs");
        assert!(error(&one, row(29)) < 1e-3);
        assert_eq!(cache.tokens(), &TOKENS[..30]);
        // Three sequences of different lengths in one pass.
        let lengths = [40, 3, 17];
        let mut caches: Vec<KvCache> = lengths.iter().map(|_| net.new_cache(0).expect("a cache")).collect();
        let mut batch: Vec<(&mut KvCache, &[u32])> =
            caches.iter_mut().zip(lengths).map(|(cache, n)| (cache, &TOKENS[..n])).collect();
        let hidden = net.hidden_of_many(&mut batch, Want::LastOnly).expect("runs");
        for ((hidden, cache), n) in hidden.iter().zip(&caches).zip(lengths) {
            assert_eq!((hidden.rows(), cache.len()), (1, n));
            let got = net.logits(hidden, 0..1).expect("logits");
            assert!(error(&got, row(n - 1)) < 1e-3, "{n} tokens");
        }
    }
}

/// A prompt longer than the tokens of one pass.
#[test]
fn a_long_prompt_runs_in_pieces() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Arc::new(encoded(folder.path(), 5.0, &[], false));
    let tokens: Vec<u32> = (0..1300u32).map(|i| i * 7919 % 1000 + 1).collect();
    let run = |options: &RunOptions| {
        let model = load(&file, options);
        let mut cache = model.network().new_cache(0).expect("a cache");
        let length = tokens.len().min(model.network().max_context());
        let hidden = model.network().hidden(&mut cache, &tokens[..length], Want::From(length - 20)).expect("runs");
        model.network().logits(&hidden, 0..20).expect("logits")
    };
    let (ours, reference) = (run(&packed()), run(&float()));
    assert!(error(&ours, &reference) < ORDER, "{}", error(&ours, &reference));
}

#[test]
fn what_cannot_run_is_refused_and_the_cache_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Arc::new(encoded(folder.path(), 4.0, &[], false));
    let model = load(&file, &RunOptions { max_context: Some(16), ..RunOptions::default() });
    let net = model.network();
    let mut cache = net.new_cache(0).expect("a cache");
    net.hidden(&mut cache, &TOKENS[..5], Want::LastOnly).expect("runs");
    assert!(matches!(net.hidden(&mut cache, &[], Want::All), Err(ModelError::EmptyPrompt)));
    let vocab = net.vocab_size() as u32;
    let outside = net.hidden(&mut cache, &[1, vocab], Want::All);
    assert!(matches!(outside, Err(ModelError::TokenId { position: 1, .. })));
    let long = net.hidden(&mut cache, &TOKENS[..12], Want::All);
    assert!(matches!(long, Err(ModelError::ContextOverflow { tokens: 17, context: 16 })));
    let mut other = net.new_cache(0).expect("a cache");
    let empty = net.hidden_of_many(&mut [(&mut other, &TOKENS[..2]), (&mut cache, &[])], Want::All);
    assert!(matches!(empty, Err(ModelError::EmptyPrompt)));
    assert_eq!((cache.len(), other.len()), (5, 0));
    net.hidden(&mut cache, &TOKENS[..11], Want::LastOnly).expect("runs");

    let reference = load(&file, &float());
    let mut plain = reference.network().new_cache(0).expect("a cache");
    assert!(matches!(net.hidden(&mut plain, &[1], Want::All), Err(ModelError::ForeignCache)));
    assert!(matches!(reference.network().hidden(&mut cache, &[1], Want::All), Err(ModelError::ForeignCache)));

    // The coded form fits where the packed one does not.
    let coded = load(&file, &RunOptions { residence: Residence::Coded, ..RunOptions::default() });
    let least = model.memory_bytes().min(coded.memory_bytes());
    assert!(coded.memory_bytes() < model.memory_bytes());
    let limited = |residence, limit: usize| {
        let options = RunOptions { residence, memory_limit: Some(limit as u64), ..RunOptions::default() };
        Model::load(&FileWeights::new(file.clone()).expect("assets"), &options)
    };
    let between = (least + model.memory_bytes()) / 2;
    assert!(matches!(limited(Residence::Packed, between), Err(RuntimeError::Model(ModelError::MemoryLimit { .. }))));
    let tight = limited(Residence::Coded, between).expect("fits");
    // Keys and values count toward the same limit, and the error says so.
    let room = tight.network().new_cache(0).and_then(|mut cache| {
        let many = vec![1; tight.network().max_context()];
        tight.network().hidden(&mut cache, &many, Want::LastOnly).map(|_| ())
    });
    println!("{room:?}");
}

/// A file with a damaged unit is refused on loading, in each residence, with the name of the tensor.
#[test]
fn a_damaged_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = encoded(folder.path(), 4.0, &[], false);
    let unit = file.reader().units().len() as u32 - 3;
    let at = file.reader().unit_range(unit).expect("a unit").start as usize + 40;
    drop(file);
    let path = folder.path().join("tiny.impasto");
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[at] ^= 4;
    std::fs::write(&path, bytes).expect("writes");
    let file = Arc::new(open(&path));
    for residence in [Residence::Packed, Residence::Coded, Residence::Float] {
        let options = RunOptions { residence, ..RunOptions::default() };
        let error = Model::load(&FileWeights::new(file.clone()).expect("assets"), &options).err().expect("damaged");
        assert!(matches!(error, RuntimeError::Model(ModelError::Tensor { .. })), "{error}");
    }
}
