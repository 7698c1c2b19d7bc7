//! Dates for chat templates: the part of C's `strftime` that they use, in UTC.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
// 1 January 1970 was a Thursday.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

struct Civil {
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From Thursday.
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn civil(seconds: u64) -> Civil {
    let mut days = seconds / 86_400;
    let weekday = (days % 7) as usize;
    // Whole cycles of 400 years (146,097 days) first, so that the loops below are short for any input.
    let mut year = 1970 + 400 * (days / 146_097);
    days %= 146_097;
    let length = |year| if leap(year) { 366 } else { 365 };
    while days >= length(year) {
        days -= length(year);
        year += 1;
    }
    let day_of_year = days + 1;
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Civil { year, month, day: days + 1, day_of_year, weekday, hour, minute, second }
}

/// `now` in `format`, UTC; a time before 1970 counts as 1970. A directive it does not know is an error naming it.
pub(crate) fn strftime(now: SystemTime, format: &str) -> Result<String, String> {
    let c = civil(now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()));
    let (month, day) = (MONTHS[c.month], DAYS[c.weekday]);
    let hour12 = (c.hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(ch) = chars.next() {
        if ch != '%' {
            out.push(ch);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let mut two = |n: u64| if unpadded { write!(out, "{n}") } else { write!(out, "{n:02}") };
        let written = match directive {
            Some('d') => two(c.day),
            Some('m') => two(c.month as u64 + 1),
            Some('y') => two(c.year % 100),
            Some('H') => two(c.hour),
            Some('I') => two(hour12),
            Some('M') => two(c.minute),
            Some('S') => two(c.second),
            Some('Y') => write!(out, "{}", c.year),
            Some('j') if unpadded => write!(out, "{}", c.day_of_year),
            Some('j') => write!(out, "{:03}", c.day_of_year),
            Some('e') => write!(out, "{:2}", c.day),
            Some('B') => out.write_str(month),
            Some('b' | 'h') => out.write_str(&month[..3]),
            Some('A') => out.write_str(day),
            Some('a') => out.write_str(&day[..3]),
            Some('p') => out.write_str(if c.hour < 12 { "AM" } else { "PM" }),
            Some('F') => write!(out, "{}-{:02}-{:02}", c.year, c.month + 1, c.day),
            Some('T') => write!(out, "{:02}:{:02}:{:02}", c.hour, c.minute, c.second),
            Some('Z') => out.write_str("UTC"),
            Some('%') => out.write_char('%'),
            Some(other) => return Err(format!("strftime_now: unknown directive %{other}")),
            None => return Err("strftime_now: the format ends with %".into()),
        };
        written.map_err(|e| e.to_string())?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn as_python_writes_it() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../tests/golden/chat.json")).unwrap();
        for case in golden["strftime"].as_array().unwrap() {
            let now = UNIX_EPOCH + Duration::from_secs(case["epoch"].as_u64().unwrap());
            assert_eq!(strftime(now, case["format"].as_str().unwrap()).unwrap(), case["expected"]);
        }
    }

    #[test]
    fn any_second_has_a_date() {
        let c = civil(u64::MAX);
        assert!(c.month < 12 && (1..=31).contains(&c.day));
        assert!(strftime(UNIX_EPOCH, "%Q").unwrap_err().contains("%Q"));
        assert!(strftime(UNIX_EPOCH, "50%").is_err());
    }
}
