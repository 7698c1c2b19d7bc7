//! Explicit tables of tensor headers (SPEC 6.2), and fitting them to counts.

use impasto_core::varint;

use super::{ESCAPE, Frequencies, SYMBOLS, TOTAL, symbol_cost};
use crate::class::Kind;
use crate::error::CodecError;

/// Appends the tables field of a tensor header of `kind`. Tables of escapes only are omitted.
pub fn write_explicit(kind: Kind, out: &mut Vec<u8>, tables: &[Frequencies]) {
    if kind.has_parities() {
        let of_parity = |parity: usize| tables.iter().skip(parity).step_by(2).cloned().collect::<Vec<_>>();
        [0, 1].map(of_parity).iter().for_each(|tables| write_explicit(kind.without_trellis(), out, tables));
        return;
    }
    let given = |t: &Frequencies| *t != Frequencies::only_escape();
    let present = (0..tables.len()).filter(|&i| given(&tables[i])).fold(0u32, |bits, i| bits | 1 << i);
    out.extend(present.to_le_bytes());
    for table in tables.iter().filter(|t| given(t)) {
        let used = |s: &usize| table.0[*s] > 0;
        let first = (0..ESCAPE).find(used).unwrap_or(0);
        let end = (0..ESCAPE).rfind(used).map_or(first, |s| s + 1);
        out.extend([first as u8, (end - first) as u8]);
        for &f in table.0[first..end].iter().chain([&table.0[ESCAPE]]) {
            varint::write(out, u64::from(f));
        }
    }
}

/// Reads the tables field of a tensor header of `kind` and removes it from the front of `bytes`.
///
/// # Errors
/// If the field violates SPEC 6.2, or 10.5.
pub fn read_explicit(kind: Kind, bytes: &mut &[u8]) -> Result<Vec<Frequencies>, CodecError> {
    if kind.has_parities() {
        let even = read_explicit(kind.without_trellis(), bytes)?;
        let odd = read_explicit(kind.without_trellis(), bytes)?;
        return Ok(even.into_iter().zip(odd).flat_map(|(even, odd)| [even, odd]).collect());
    }
    let (field, rest) = bytes.split_first_chunk::<4>().ok_or(CodecError::Truncated("tables"))?;
    *bytes = rest;
    let present = u32::from_le_bytes(*field);
    if u64::from(present) >> kind.tables() != 0 {
        let rule = "a bit is set for a table that does not exist";
        return Err(CodecError::Field { field: "present", value: u64::from(present), rule, clause: "6.2" });
    }
    (0..kind.tables())
        .map(|i| if present >> i & 1 == 1 { read_table(i, bytes) } else { Ok(Frequencies::only_escape()) })
        .collect()
}

fn read_table(table: usize, bytes: &mut &[u8]) -> Result<Frequencies, CodecError> {
    let (&[first, count], rest) = bytes.split_first_chunk::<2>().ok_or(CodecError::Truncated("table"))?;
    *bytes = rest;
    let (first, end) = (usize::from(first), usize::from(first) + usize::from(count));
    if end > ESCAPE {
        let rule = "first + count is above 63";
        return Err(CodecError::Field { field: "count", value: end as u64, rule, clause: "6.2" });
    }
    let mut frequencies = [0; SYMBOLS];
    let mut sum = 0u64;
    for s in (first..end).chain([ESCAPE]) {
        let f = varint::read(bytes)?;
        sum = sum.saturating_add(f);
        frequencies[s] = u16::try_from(f).unwrap_or(u16::MAX);
    }
    if sum != u64::from(TOTAL) {
        return Err(CodecError::TableSum { table, sum });
    }
    Ok(Frequencies(frequencies))
}

/// Returns frequencies of nearly the least cost for symbols that occur `counts[s]` times. A symbol that occurs gets a
/// frequency of at least 1.
pub fn fit(counts: &[u64; SYMBOLS]) -> Frequencies {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return Frequencies::only_escape();
    }
    let share = |c: u64| (u128::from(c) * u128::from(TOTAL) / u128::from(all)) as u16;
    let mut f = counts.map(|c| if c == 0 { 0 } else { share(c).max(1) });
    // Add or remove one slot at a time, where it costs least, until the sum is right. Costs are in 2^-16 bits, times
    // counts.
    let cost = |f: u16| symbol_cost(f).unwrap_or(0);
    let step = |c: u64, from: u16, to: u16| u128::from(c) * u128::from(cost(from) - cost(to));
    loop {
        let sum: u32 = f.iter().map(|&f| u32::from(f)).sum();
        let used = (0..SYMBOLS).filter(|&s| f[s] > 0);
        if sum < TOTAL {
            if let Some(s) = used.max_by_key(|&s| (step(counts[s], f[s], f[s] + 1), SYMBOLS - s)) {
                f[s] += 1;
            }
        } else if sum > TOTAL {
            if let Some(s) = used.filter(|&s| f[s] > 1).min_by_key(|&s| (step(counts[s], f[s] - 1, f[s]), s)) {
                f[s] -= 1;
            }
        } else {
            return Frequencies(f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::parametric;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fits_sum_and_round_trip(counts in prop::array::uniform32(0u64..1_000_000)) {
            let mut all = [0; SYMBOLS];
            all[10..42].copy_from_slice(&counts);
            let table = fit(&all);
            prop_assert_eq!(table.0.iter().map(|&f| u32::from(f)).sum::<u32>(), TOTAL);
            for (&count, &f) in all.iter().zip(&table.0) {
                prop_assert!(count == 0 || f > 0);
            }
            let mut tables = vec![Frequencies::only_escape(); 4];
            tables[2] = table;
            let mut bytes = Vec::new();
            write_explicit(Kind::Float, &mut bytes, &tables);
            prop_assert_eq!(read_explicit(Kind::Float, &mut &bytes[..]), Ok(tables));
        }
    }

    #[test]
    fn parametric_tables_survive_spelled_out() {
        let tables = parametric(Kind::Lattice, 4).expect("shape");
        let mut bytes = Vec::new();
        write_explicit(Kind::Lattice, &mut bytes, &tables);
        for kind in [Kind::Lattice, Kind::Refinement] {
            assert_eq!(read_explicit(kind, &mut &bytes[..]).as_ref(), Ok(&tables));
        }
        assert_eq!(read_explicit(Kind::Exact, &mut &bytes[..]).map(|tables| tables.len()), Ok(32));
        assert!(read_explicit(Kind::Float, &mut &bytes[..]).is_err());
        bytes[6] ^= 1;
        assert!(matches!(read_explicit(Kind::Lattice, &mut &bytes[..]), Err(CodecError::TableSum { table: 0, .. })));
    }
}
