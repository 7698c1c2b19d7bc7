//! Bands: which bytes of the file are read for a part of a tensor, and the size of its units.

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use crate::support::{Model, Random, Tensor};
use impasto::File;
use impasto::encode::Target;
use impasto_container::{CountingSource, Header, Limits, Reader};
use impasto_core::DType;

type Counted = Arc<CountingSource<Vec<u8>>>;

/// Opens a file over a counting source, and also returns the source.
fn counted(bytes: Vec<u8>) -> (File<Counted>, Counted) {
    let source = Arc::new(CountingSource::new(bytes));
    let reader = Reader::open(Arc::clone(&source), "counted", &Limits::default()).expect("a good file");
    (File::new(reader), source)
}

/// Merges ranges like [`CountingSource::touched`].
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|r| r.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|r| !r.is_empty()) {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

fn part(random: &mut Random, length: u64) -> Range<u64> {
    let (a, b) = (random.below(length + 1), random.below(length + 1));
    a.min(b)..a.max(b)
}

#[test]
fn a_band_touches_its_tiles_only() {
    let tensors = vec![
        Tensor::weights("a.conv", DType::F16, &[700, 200, 3], 1),
        Tensor::weights("b.wide", DType::Bf16, &[400, 1504], 2),
        Tensor::weights("c.tall", DType::F32, &[8000, 96], 3),
        Tensor::noise("d.bytes", DType::I64, &[600, 224], 4),
    ];
    let model = Model::single(tensors);
    for target in [Target::Lossless, Target::BitsPerWeight(12.0)] {
        model.encode("a.impasto", target).expect("encodes");
        let bytes = fs::read(model.file("a.impasto")).expect("reads");
        let (file, source) = counted(bytes.clone());
        let manifest = 0..Header::read(&bytes).expect("a header").manifest_end();
        assert_eq!(source.touched(), [manifest], "opening reads the header and the manifest");
        let mut random = Random(5);
        for tensor in &model.tensors {
            let number = file.reader().find_tensor(&tensor.name).expect("there");
            let range = |unit: u32| file.reader().unit_range(unit).expect("a unit");
            let units = file.reader().units_of(number).expect("known");
            assert!(units.tiles.len() > 3, "{} has {} tiles", tensor.name, units.tiles.len());
            source.clear();
            let whole = file.tensor(&tensor.name).expect("tensor header");
            assert_eq!(source.touched(), merged(units.header.iter().map(|&u| range(u)).collect()));
            let (matrix, size) = (*whole.matrix(), tensor.dtype.size() as u64);
            let (rows, columns) = (matrix.rows(), matrix.cols());
            source.clear();
            let all = whole.bytes().expect("units");
            assert_eq!(source.calls(), 1, "all units in one call");
            assert!(target != Target::Lossless || all == tensor.bytes);
            for i in 0..60 {
                let (r, c) = match i % 3 {
                    0 => (part(&mut random, rows), 0..columns),
                    1 => (0..rows, part(&mut random, columns)),
                    _ => (part(&mut random, rows), part(&mut random, columns)),
                };
                source.clear();
                let band = whole.band(r.clone(), c.clone()).expect("units");
                let wanted: Vec<u8> = r
                    .clone()
                    .flat_map(|row| {
                        let at = |column: u64| ((row * columns + column) * size) as usize;
                        all[at(c.start)..at(c.end)].to_vec()
                    })
                    .collect();
                assert!(band == wanted, "{} {r:?} {c:?}", tensor.name);
                if band.is_empty() {
                    assert_eq!(source.touched(), []);
                    continue;
                }
                let met: Vec<u32> = (0..matrix.tile_count())
                    .filter(|&tile| {
                        let rect = matrix.tile(tile).expect("a tile");
                        // A tile that overlaps the band extends past each edge by less than its own size.
                        rect.rows.start < r.end
                            && r.start < rect.rows.end
                            && rect.cols.start < c.end
                            && c.start < rect.cols.end
                    })
                    .collect();
                let ranges = met.iter().map(|&tile| range(units.tiles[tile as usize])).collect();
                assert_eq!(source.touched(), merged(ranges), "{} {r:?} {c:?}", tensor.name);
                let most = |band: &Range<u64>, tile: u64| (band.end - band.start).div_ceil(tile) + 1;
                assert!(met.len() as u64 <= most(&r, matrix.tile_rows()) * most(&c, matrix.tile_cols()));
            }
        }
    }
}

/// Parts outside the matrix are omitted, as SPEC 4.4 requires.
#[test]
fn bands_end_with_the_matrix() {
    let model = Model::single(vec![Tensor::weights("w", DType::Bf16, &[70, 64], 1)]);
    model.encode("a.impasto", Target::Lossless).expect("encodes");
    let file = crate::support::open(&model.file("a.impasto"));
    let w = file.tensor("w").expect("tensor header");
    assert_eq!(w.band(69..u64::MAX, 0..u64::MAX).expect("units"), &model.tensors[0].bytes[69 * 128..]);
    assert!(w.band(70..80, 0..64).expect("nothing").is_empty());
    assert!(w.band(5..5, 0..64).expect("nothing").is_empty());
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = w.band(9..5, 0..64).expect("nothing");
    assert!(backwards.is_empty());
}
