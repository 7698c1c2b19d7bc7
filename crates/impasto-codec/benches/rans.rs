//! Speed of the rANS decoders on real integers, beside constriction.
//!
//! The integers are the embedding of the tiny model on a lattice whose step differs from row to row, so that all classes are live; the
//! steps are set so that a symbol takes about 3.3 bits.

use constriction::stream::model::DefaultContiguousCategoricalEntropyModel;
use constriction::stream::stack::DefaultAnsCoder;
use constriction::stream::{Decode, Encode};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use impasto_codec::class::class;
use impasto_codec::lattice::quantize;
use impasto_codec::rans::{Columns, Decoder, LANES, Segment, encode_segment};
use impasto_codec::tables::{Frequencies, Lut, parametric};
use impasto_codec::{Kind, Level};

/// Rows as long as those of SmolLM2's matrices, about.
const COLUMNS: usize = 768;

struct Data {
    rows: Vec<i32>,
    columns: Vec<i32>,
    values: Vec<i32>,
}

/// Integers of the tiny model's embedding (4096 x 192, taken as 1024 x 768), row `r` on a step of its own, from fine to coarse.
fn data() -> Data {
    let bytes = include_bytes!("../../../assets/tiny/model.safetensors");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let weights: Vec<f32> = bytes[header..header + 4096 * 192 * 2]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&b| half::bf16::from_le_bytes(b).to_f32())
        .collect();
    let mut data = Data { rows: vec![], columns: vec![0; COLUMNS], values: vec![] };
    for (r, row) in weights.chunks_exact(COLUMNS).enumerate() {
        let rms = (row.iter().map(|w| w * w).sum::<f32>() / COLUMNS as f32).sqrt().max(1e-9);
        // Class 19.5 on average (3.3 bits), spread over all 44, the middle ones most often.
        let class = 19.5 + [0.0, 1.5, -2.5, 4.0, -4.5, 7.0, -8.0, 24.0, -19.0][r % 9];
        let deviation = ((class - 23.0) / 4.0 + 2.0f32).exp2();
        data.rows.push(class as i32);
        data.values.extend(row.iter().map(|&w| quantize(w, deviation / rms)));
    }
    data
}

fn decode(level: Level, lut: &Lut, segment: &Segment, words: &[u8], data: &Data, out: &mut [i32]) {
    let mut decoder = Decoder::new(level, lut, segment.states, words).expect("states");
    let mut escapes = Vec::new();
    let columns = Columns::new(data.columns.clone());
    for (rows, out) in data.rows.chunks(4).zip(out.chunks_mut(4 * COLUMNS)) {
        decoder.rows(rows, &columns, out, &mut escapes).expect("words");
    }
    assert!(decoder.is_finished());
}

fn benchmark(c: &mut Criterion) {
    let data = data();
    let kind = Kind::Lattice;
    let tables: Vec<Frequencies> = parametric(kind, 1).expect("shape");
    let segment = encode_segment(kind, &data.rows, &data.columns, &data.values, &tables).expect("codes");
    let words: Vec<u8> = segment.words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let bits = (words.len() + segment.escapes.len()) as f64 * 8.0 / data.values.len() as f64;
    eprintln!("{} symbols at {bits:.3} bits", data.values.len());
    let lut = Lut::new(kind, &tables);
    let mut out = vec![0; data.values.len()];
    assert_eq!(COLUMNS % LANES, 0);

    let mut group = c.benchmark_group("rans");
    group.throughput(Throughput::Elements(data.values.len() as u64));
    for level in Level::available() {
        group.bench_function(format!("{level:?}"), |b| {
            b.iter(|| decode(level, &lut, &segment, &words, &data, &mut out))
        });
    }
    // The same symbols under the same tables, low bits and escapes left out: less work than ours.
    let models: Vec<_> = tables
        .iter()
        .map(|t| {
            let p: Vec<f32> = t.0.iter().map(|&f| f32::from(f).max(1e-3)).collect();
            DefaultContiguousCategoricalEntropyModel::from_floating_point_probabilities_fast(&p, None).expect("model")
        })
        .collect();
    let symbols: Vec<(usize, usize)> = data
        .values
        .chunks_exact(COLUMNS)
        .zip(&data.rows)
        .flat_map(|(values, &row)| {
            let class = class(kind, row, 0);
            values.iter().map(move |v| (class.table, ((v >> class.low_bits) + 31).clamp(0, 62) as usize))
        })
        .collect();
    let mut coder = DefaultAnsCoder::new();
    for &(table, symbol) in symbols.iter().rev() {
        coder.encode_symbol(symbol, &models[table]).expect("in the model");
    }
    group.bench_function("constriction", |b| {
        b.iter(|| {
            let mut coder = coder.clone();
            for &(table, symbol) in &symbols {
                assert_eq!(coder.decode_symbol(&models[table]).expect("decodes"), symbol);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
