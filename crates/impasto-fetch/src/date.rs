//! Days and dates of the Gregorian calendar.

/// Returns the days from 1970-01-01 to a date from then on.
pub fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March, so that leap days are at their ends.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let to_year = year * 365 + year / 4 - year / 100 + year / 400;
    to_year + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// Returns the year, month and day of a number of days from 1970-01-01.
#[cfg(any(feature = "s3", test))]
pub fn date(of: u64) -> (u64, u64, u64) {
    let (mut year, mut month) = (1970 + of / 366, 1);
    while days(year + 1, 1, 1) <= of {
        year += 1;
    }
    while month < 12 && days(year, month + 1, 1) <= of {
        month += 1;
    }
    (year, month, of - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates() {
        assert_eq!((days(1970, 1, 1), days(2000, 3, 1), days(2026, 11, 30)), (0, 11_017, 20_787));
        let mut before = date(0);
        assert_eq!(before, (1970, 1, 1));
        for day in 1..80_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
            let follows = match (year - before.0, month, of_month) {
                (0, month, 1) => month == before.1 + 1 && before.2 >= 28,
                (0, month, of_month) => month == before.1 && of_month == before.2 + 1,
                (1, 1, 1) => (before.1, before.2) == (12, 31),
                _ => false,
            };
            assert!(follows, "{before:?} {:?}", (year, month, of_month));
            before = (year, month, of_month);
        }
    }
}
