use impasto_core::varint;
use proptest::prelude::*;

use super::*;
use crate::class::{Kind, class};
use crate::sink::{CodingTables, Recorder, SymbolSink};
use crate::tables::{COST_ONE, ESCAPE, Frequencies, SHAPES, SYMBOLS, TOTAL, parametric, symbol_cost};

fn words(segment: &Segment) -> Vec<u8> {
    segment.words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Decodes a segment with an instruction set, and replaces escapes by their values.
fn decode(isa: Isa, lut: &Lut, segment: &Segment, rows: &[i32], columns: &[i32]) -> Option<Vec<i32>> {
    let words = words(segment);
    let mut decoder = Decoder::new(isa, lut, segment.states, &words)?;
    let columns = Columns::new(columns.to_vec());
    let (mut escapes, mut out) = (Vec::new(), Vec::new());
    let mut codes = &segment.escapes[..];
    // Two rows per call.
    for rows in rows.chunks(2) {
        let mut values = vec![0; rows.len() * columns.padded()];
        escapes.clear();
        decoder.rows(rows, &columns, &mut values, &mut escapes).ok()?;
        for &at in &escapes {
            let code = varint::read(&mut codes).ok()? as u32;
            values[at as usize] = escape_value(lut.kind(), code);
        }
        values.chunks_exact(columns.padded()).for_each(|row| out.extend(&row[..columns.width()]));
    }
    (decoder.is_finished() && codes.is_empty()).then_some(out)
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

/// Returns values that mostly fit their class, and occasionally any i32.
fn values(kind: Kind, rows: &[i32], columns: &[i32], noise: &[(u8, i32)]) -> Vec<i32> {
    let mut noise = noise.iter().cycle();
    let mut value = |r, c| {
        let class = class(kind, r, c);
        match noise.next() {
            Some(&(0, any)) => any,
            Some(&(n, low)) => {
                let symbol = 31 + i32::from(n) % 21 - 10;
                ((symbol + class.offset) << class.low_bits) + (low & ((1 << class.low_bits) - 1))
            }
            None => 0,
        }
    };
    rows.iter().flat_map(|&r| columns.iter().map(|&c| value(r, c)).collect::<Vec<_>>()).collect()
}

proptest! {
    #[test]
    fn every_instruction_set_gives_back_the_values(
        (kind, tables) in any_tables(),
        rows in prop::collection::vec(-10i32..60, 1..8),
        columns in prop::collection::vec(-10i32..1000, 1..200),
        noise in prop::collection::vec((any::<u8>(), any::<i32>()), 1..300),
    ) {
        let columns: Vec<i32> = if kind == Kind::Float { columns } else { columns.iter().map(|c| c % 24).collect() };
        let values = values(kind, &rows, &columns, &noise);
        // Random tables may lack the escape.
        let Some(segment) = encode_segment(kind, &rows, &columns, &values, &tables) else { return Ok(()) };
        let lut = Lut::new(kind, &tables);
        for isa in Isa::available() {
            let decoded = decode(isa, &lut, &segment, &rows, &columns);
            prop_assert_eq!(decoded.as_ref(), Some(&values), "{:?}", isa);
        }
    }

    /// For any words and tables, all instruction sets give the same values, escapes, states and number of words read,
    /// or all fail.
    #[test]
    fn instruction_sets_agree_on_noise(
        (kind, tables) in any_tables(),
        states in prop::collection::vec(LOW.., LANES),
        noise in prop::collection::vec(any::<u16>(), 0..1200),
        rows in prop::collection::vec(-40i32..60, 1..4),
        columns in prop::collection::vec(-10i32..60, 1..300),
    ) {
        let lut = Lut::new(kind, &tables);
        let states: [u32; LANES] = states.try_into().expect("32 states");
        let bytes: Vec<u8> = noise.iter().flat_map(|w| w.to_le_bytes()).collect();
        let columns = Columns::new(columns);
        let run = |isa| {
            let mut decoder = Decoder::new(isa, &lut, states, &bytes).expect("states");
            let (mut values, mut escapes) = (vec![0; rows.len() * columns.padded()], Vec::new());
            decoder.rows(&rows, &columns, &mut values, &mut escapes)?;
            for row in values.chunks_exact_mut(columns.padded()) {
                row[columns.width()..].fill(0);
            }
            Ok::<_, OutOfWords>((values, escapes, decoder.states, decoder.used))
        };
        let scalar = run(Isa::Scalar);
        for isa in Isa::available() {
            prop_assert_eq!(&run(isa), &scalar, "{:?}", isa);
        }
    }
}

/// Returns the tables of a shape; for a kind without shapes, the lattice tables, repeated as needed.
fn shape_for(kind: Kind, shape: u8) -> Vec<Frequencies> {
    let tables = parametric(kind, shape).or_else(|| parametric(Kind::Lattice, shape)).expect("shape");
    tables.into_iter().cycle().take(kind.tables()).collect()
}

/// Generates a parametric shape, or random tables: with few symbols, many of frequency 0, or with the escape only.
fn any_tables() -> impl Strategy<Value = (Kind, Vec<Frequencies>)> {
    let shapes = (kinds(), 0..SHAPES as u8).prop_map(|(kind, shape)| (kind, shape_for(kind, shape)));
    let cuts =
        prop::collection::vec(prop::collection::vec((0..SYMBOLS, 0..=TOTAL as u16), 0..8), Kind::Trellis.tables());
    let spelled = (kinds(), cuts).prop_map(|(kind, cuts)| {
        let table = |cuts: &Vec<(usize, u16)>| {
            let mut table = Frequencies::only_escape();
            for &(symbol, wanted) in cuts {
                let taken = wanted.min(table.0[ESCAPE]);
                table.0[ESCAPE] -= taken;
                table.0[symbol] += taken;
            }
            table
        };
        (kind, cuts[..kind.tables()].iter().map(table).collect())
    });
    prop_oneof![shapes, spelled]
}

/// Every instruction set detects missing words, wherever they end.
#[test]
fn every_instruction_set_notices_the_end_of_the_words() {
    for kind in Kind::ALL {
        let tables = shape_for(kind, 2);
        let lut = Lut::new(kind, &tables);
        let (rows, columns) = ([19, 40, 5, 12], (0..107).map(|c| c % 9).collect::<Vec<_>>());
        let values = values(kind, &rows, &columns, &[(3, 1), (250, 70), (17, 5), (91, 2)]);
        let segment = encode_segment(kind, &rows, &columns, &values, &tables).expect("escapes have frequencies");
        let words = words(&segment);
        let columns = Columns::new(columns);
        for isa in Isa::available() {
            for end in 0..=words.len() / 2 {
                let mut decoder = Decoder::new(isa, &lut, segment.states, &words[..2 * end]).expect("states");
                let mut values = vec![0; rows.len() * columns.padded()];
                let decoded = decoder.rows(&rows, &columns, &mut values, &mut Vec::new());
                assert_eq!(decoded.is_ok(), 2 * end == words.len(), "{isa:?}, {end} words");
            }
        }
    }
}

/// Rows in which zero padding would be out of range while the columns are in range, and the reverse.
#[test]
fn padding_is_in_range_where_the_columns_are() {
    for kind in Kind::ALL {
        let tables = shape_for(kind, 0);
        let lut = Lut::new(kind, &tables);
        for (row, column) in [(-900, 905), (900, -895), (-30_000, 30_010), (30_000, -29_995), (5, 0), (-5, 0), (60, 0)]
        {
            let (rows, columns) = ([row; 3], [column; 37]);
            let values = values(kind, &rows, &columns, &[(7, 3), (0, -70_000), (200, 1)]);
            let segment = encode_segment(kind, &rows, &columns, &values, &tables).expect("escapes have frequencies");
            for isa in Isa::available() {
                assert_eq!(decode(isa, &lut, &segment, &rows, &columns).as_ref(), Some(&values), "{row} {column}");
            }
        }
    }
}

/// Classes set row by row, as in layers above 0, give the same result as a segment with one row after another.
#[test]
fn columns_can_change_from_row_to_row() {
    for kind in Kind::ALL {
        let (tables, width) = (shape_for(kind, 1), 75);
        let lut = Lut::new(kind, &tables);
        let class = |r: usize, c: usize| ((r * 41 + c * c * 7) % 53) as i32 - 4;
        let values: Vec<i32> = (0..9 * width as i32).map(|i| i * i % 97 - 20).collect();
        let values: Vec<i32> = if kind == Kind::Float { values.iter().map(|v| v & 0xFF).collect() } else { values };
        let coder = CodingTables::new(kind, &tables);
        let mut recorder = Recorder::new(&coder, width, values.len());
        for (r, values) in values.chunks_exact(width).enumerate() {
            recorder.symbols(&(0..width).map(|c| class(r, c)).collect::<Vec<_>>(), values);
            recorder.end_row();
        }
        let segment = recorder.segment().expect("escapes have frequencies");
        let words = words(&segment);
        for isa in Isa::available() {
            let mut decoder = Decoder::new(isa, &lut, segment.states, &words).expect("states");
            let (mut columns, mut codes, mut escapes) =
                (Columns::new(vec![0; width]), &segment.escapes[..], Vec::new());
            for (r, values) in values.chunks_exact(width).enumerate() {
                columns.update(isa, |classes| (0..).zip(classes).for_each(|(c, t)| *t = class(r, c)));
                let mut decoded = vec![0; columns.padded()];
                escapes.clear();
                decoder.rows(&[0], &columns, &mut decoded, &mut escapes).expect("words");
                for &at in &escapes {
                    decoded[at as usize] = escape_value(kind, varint::read(&mut codes).expect("a varint") as u32);
                }
                assert_eq!(&decoded[..width], values, "{kind:?} {isa:?}, row {r}");
            }
            assert!(decoder.is_finished() && codes.is_empty());
        }
    }
}

/// For a Gaussian source in every class, the coded length is within 0.1% of the model's entropy, and of the length that
/// constriction reaches with the same model.
#[test]
fn code_length_is_the_models() {
    use constriction::stream::{Encode, model::DefaultContiguousCategoricalEntropyModel, stack::DefaultAnsCoder};

    let kind = Kind::Lattice;
    let tables = parametric(kind, 0).expect("shape");
    let rows: Vec<i32> = (0..1600).map(|r| r % 24).collect();
    let columns: Vec<i32> = (0..512).map(|c| c % 20).collect();
    let mut seed = 1u64;
    let mut uniform = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f64 / (1u64 << 24) as f64
    };
    let mut values = Vec::new();
    let mut ideal = 0;
    let mut peer = DefaultAnsCoder::new();
    let models: Vec<_> = tables
        .iter()
        .map(|t| {
            let p: Vec<f32> = t.0.iter().map(|&f| f32::from(f).max(1e-3) / 2048.0).collect();
            DefaultContiguousCategoricalEntropyModel::from_floating_point_probabilities_fast(&p, None).expect("model")
        })
        .collect();
    let mut low_bits = 0;
    for &row in &rows {
        for &column in &columns {
            // The value is drawn from the table itself, so that the model is exact.
            let class = class(kind, row, column);
            let mut slot = (uniform() * 2048.0) as i32;
            let table: &Frequencies = &tables[class.table];
            let s = table
                .0
                .iter()
                .position(|&f| {
                    slot -= i32::from(f);
                    slot < 0
                })
                .expect("sums to 2048");
            let s = if s == ESCAPE { 31 } else { s };
            let low = (uniform() * f64::from(1u32 << class.low_bits)) as i32;
            values.push(((s as i32 - 31) << class.low_bits) + low - (1 << class.low_bits >> 1));
            ideal += symbol_cost(table.0[s]).expect("drawn from the table") + u64::from(class.low_bits) * COST_ONE;
            low_bits += class.low_bits;
            peer.encode_symbol(s, &models[class.table]).expect("in the model");
        }
    }
    let segment = encode_segment(kind, &rows, &columns, &values, &tables).expect("escapes have frequencies");
    assert!(segment.escapes.is_empty());
    let ideal = ideal as f64 / COST_ONE as f64;
    let ours = (segment.words.len() * 16 + LANES * 32) as f64;
    let theirs = (peer.num_bits() + low_bits as usize) as f64;
    assert!(ours < ideal * 1.001 && ours > ideal, "{ours} bits, the model's {ideal}");
    assert!((ours / theirs - 1.0).abs() < 0.001, "{ours} bits, constriction {theirs}");
}
