//! Speed of the decoders for every instruction set of this processor, on real weights: the embedding of the tiny model.
//!
//! `rans`: lattice integers whose step differs between rows, so that all classes occur; a symbol takes about 3.3 bits.
//! constriction decodes the same symbols for comparison.
//!
//! `float`: tiles in mode float, from the bytes of a unit to bf16.
//!
//! `layers`: a lattice tile, two refinements and an exact layer; each benchmark decodes all layers up to the one in its
//! name.

use constriction::stream::model::DefaultContiguousCategoricalEntropyModel;
use constriction::stream::stack::DefaultAnsCoder;
use constriction::stream::{Decode, Encode};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use impasto_codec::class::class;
use impasto_codec::rans::{Columns, Decoder, LANES, Segment, encode_segment, symbol};
use impasto_codec::tables::{Frequencies, Lut, SYMBOLS, fit, parametric};
use impasto_codec::tile::{TileDecoder, TileEncoder, Unit};
use impasto_codec::{Body, IndexArray, Kind, Refinement, Shape, Steps, TensorHeader, exact, refinement};
use impasto_core::{
    DType, Isa, Mode, Place,
    lattice::{quantize, reconstruct_row, scale},
    values::to_f32,
};

/// About the row length of SmolLM2's matrices.
const COLUMNS: usize = 768;

struct Data {
    rows: Vec<i32>,
    columns: Vec<i32>,
    values: Vec<i32>,
}

/// Returns the embedding of the tiny model in bf16 (4096 x 192, reshaped to 1024 x 768).
fn embedding() -> &'static [u8] {
    let bytes = include_bytes!("../../../assets/tiny/model.safetensors");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    &bytes[header..header + 4096 * 192 * 2]
}

fn weights(bytes: &[u8]) -> Vec<f32> {
    let mut weights = Vec::new();
    assert!(to_f32(DType::Bf16, bytes, &mut weights));
    weights
}

fn rms(row: &[f32]) -> f32 {
    (row.iter().map(|w| w * w).sum::<f32>() / row.len() as f32).sqrt().max(1e-9)
}

/// Returns integers of the embedding. Each row has its own step, from fine to coarse.
fn data() -> Data {
    let weights = weights(embedding());
    let mut data = Data { rows: vec![], columns: vec![0; COLUMNS], values: vec![] };
    for (r, row) in weights.chunks_exact(COLUMNS).enumerate() {
        let rms = rms(row);
        // Class 19.5 on average (3.3 bits), spread over all 44 classes, the middle ones most often.
        let class = 19.5 + [0.0, 1.5, -2.5, 4.0, -4.5, 7.0, -8.0, 24.0, -19.0][r % 9];
        let deviation = ((class - 23.0) / 4.0 + 2.0f32).exp2();
        data.rows.push(class as i32);
        data.values.extend(row.iter().map(|&w| quantize(w, deviation / rms)));
    }
    data
}

fn decode(isa: Isa, lut: &Lut, segment: &Segment, words: &[u8], data: &Data, out: &mut [i32]) {
    let mut decoder = Decoder::new(isa, lut, segment.states, words).expect("states");
    let mut escapes = Vec::new();
    let columns = Columns::new(data.columns.clone());
    for (rows, out) in data.rows.chunks(4).zip(out.chunks_mut(4 * COLUMNS)) {
        decoder.rows(rows, &columns, out, &mut escapes).expect("words");
    }
    assert!(decoder.is_finished());
}

/// Decodes a tile of 64 rows, each in the class of its root mean square.
fn floats(c: &mut Criterion) {
    let layout = DType::Bf16.float_layout().expect("a float");
    let place = Place { rows: 0..64, columns: 0..COLUMNS };
    let elements = &embedding()[..2 * place.elements()];
    let class = |row: &[f32]| layout.split(u32::from(half::bf16::from_f32(rms(row)).to_bits())).0 as i16;
    let header = TensorHeader {
        shape: Shape::Parametric(0),
        plane: layout.raw_bits() as u8,
        row_classes: IndexArray::new(weights(elements).chunks_exact(COLUMNS).map(class).collect()),
        column_classes: IndexArray::new(vec![0; COLUMNS]),
        body: Body::Float,
    };
    let unit = TileEncoder::new(&header, 1).float(DType::Bf16, &place, elements).expect("codes");
    eprintln!("{} bytes of floats in {} bytes", elements.len(), unit.len());
    let mut out = vec![0; elements.len()];
    let mut group = c.benchmark_group("float");
    group.throughput(Throughput::Bytes(elements.len() as u64));
    for isa in Isa::available() {
        let decoder = TileDecoder::new(DType::Bf16, vec![header.clone()], isa).expect("a tensor header of layer 0");
        let units = [Unit { mode: Mode::FLOAT, bytes: &unit }];
        group.bench_function(isa.to_string(), |b| {
            b.iter(|| decoder.decode(&units, &place, &mut out, 2 * COLUMNS).expect("decodes"))
        });
        assert_eq!(out, elements);
    }
    group.finish();
}

fn lattice(c: &mut Criterion) {
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
    for isa in Isa::available() {
        group.bench_function(isa.to_string(), |b| b.iter(|| decode(isa, &lut, &segment, &words, &data, &mut out)));
    }
    // constriction gets the same symbols and tables, without low bits and escapes, so it does less work.
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

/// Returns tables fitted to pairs of class and value.
fn fitted(kind: Kind, coded: impl Iterator<Item = (i32, i32)>) -> Shape {
    let mut counts = vec![[0; SYMBOLS]; kind.tables()];
    for (t, value) in coded {
        let class = class(kind, t, 0);
        counts[class.table][symbol(class, value).0] += 1;
    }
    Shape::Explicit(counts.iter().map(fit).collect())
}

/// Decodes a tile of 64 rows: 2-bit integers, refinements by factors 3 and 4, then the exact layer.
fn layers(c: &mut Criterion) {
    let dtype = DType::Bf16;
    let layout = dtype.float_layout().expect("a float");
    let place = Place { rows: 0..64, columns: 0..COLUMNS };
    let elements = &embedding()[..2 * place.elements()];
    let floats = weights(elements);
    let row_steps: Vec<i16> = floats.chunks_exact(COLUMNS).map(|row| (16.0 * rms(row).log2()).round() as i16).collect();
    let header = |body, shape, row_class: i16| TensorHeader {
        shape,
        plane: 0,
        row_classes: IndexArray::Constant(row_class),
        column_classes: IndexArray::Constant(0),
        body,
    };
    let integers = |step: f32| -> Vec<i32> {
        let rows = floats.chunks_exact(COLUMNS).zip(&row_steps);
        rows.flat_map(|(row, &i)| row.iter().map(move |&w| quantize(w, 1.0 / (step * scale(i.into()))))).collect()
    };
    let steps = Steps { rows: Some(IndexArray::new(row_steps.clone())), ..Steps::new(1.0) };
    let mut headers = vec![header(Body::Lattice(steps), Shape::Parametric(0), 15)];
    let mut z = integers(1.0);
    let unit = TileEncoder::new(&headers[0], 1).lattice(&place, &z).expect("codes");
    let mut units = vec![(Mode::LATTICE, unit)];
    let mut step = 1.0;
    for factor in [3u8, 4] {
        step /= f32::from(factor);
        let fine = integers(step);
        let coded =
            z.iter().zip(&fine).map(|(&z, &fine)| (refinement::class(0, z), refinement::residual(factor, z, fine)));
        let shape = fitted(Kind::Refinement, coded);
        let body = Body::Refinement(Refinement::new(factor, step));
        headers.push(header(body, shape, 0));
        let encoder = TileEncoder::new(&headers[headers.len() - 1], 1);
        units.push((Mode::REFINEMENT, encoder.refinement(&place, &z, &fine).expect("codes")));
        z = fine;
    }
    let mut predicted = vec![0; elements.len()];
    let rows = predicted.chunks_exact_mut(2 * COLUMNS).zip(z.chunks_exact(COLUMNS)).zip(&row_steps);
    rows.for_each(|((out, z), &i)| reconstruct_row(dtype, z, 0, &[1.0; COLUMNS], step * scale(i.into()), out));
    let bits_of =
        |bytes: &[u8]| -> Vec<u32> { bytes.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b).into()).collect() };
    let (p, bits) = (bits_of(&predicted), bits_of(elements));
    let r = 4 * 122 + 20;
    let coded =
        (0..z.len()).map(|i| (exact::class(layout, r, z[i], p[i]), exact::residual(layout, r, z[i], p[i], bits[i])));
    headers.push(header(Body::Exact, fitted(Kind::Exact, coded), r as i16));
    let encoder = TileEncoder::new(&headers[headers.len() - 1], 1);
    units.push((Mode::EXACT, encoder.exact(dtype, &place, &z, &predicted, elements).expect("codes")));

    let bits: Vec<f64> = units.iter().map(|(_, unit)| unit.len() as f64 * 8.0 / z.len() as f64).collect();
    eprintln!("{} elements in layers of {bits:.3?} bits", z.len());
    let units: Vec<Unit> = units.iter().map(|(mode, bytes)| Unit { mode: *mode, bytes }).collect();
    let mut out = vec![0; elements.len()];
    let mut group = c.benchmark_group("layers");
    group.throughput(Throughput::Elements(z.len() as u64));
    for isa in Isa::available() {
        let decoder = TileDecoder::new(dtype, headers.clone(), isa).expect("tensor headers in order");
        for (k, name) in ["lattice", "refinement", "refinement-2", "exact"].into_iter().enumerate() {
            group.bench_function(format!("{isa}/{name}"), |b| {
                b.iter(|| decoder.decode(&units[..=k], &place, &mut out, 2 * COLUMNS).expect("decodes"))
            });
        }
        assert_eq!(out, elements);
    }
    group.finish();
}

criterion_group!(benches, lattice, floats, layers);
criterion_main!(benches);
