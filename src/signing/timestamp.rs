use std::fmt;

use crate::encoding::ascii;

/// 9999-12-31T23:59:59Z, the last second that the format's four digits can hold.
const LAST: u64 = 253_402_300_799;
const SECONDS_A_DAY: u64 = 86_400;

/// A second in time, as signatures write it: `20260101T000000Z`, always UTC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    seconds: u64,
    text: [u8; 16],
}

impl Timestamp {
    /// From whole seconds since 1970-01-01T00:00:00Z. Times beyond the year 9999 become its last second, which no verifier
    /// accepts.
    pub fn from_unix(seconds: u64) -> Self {
        let seconds = seconds.min(LAST);
        let (days, of_day) = (seconds / SECONDS_A_DAY, seconds % SECONDS_A_DAY);
        let (year, month, day) = civil(days);
        let digit = |n: u64| b'0' + (n % 10) as u8;
        let text = [
            digit(year / 1000),
            digit(year / 100),
            digit(year / 10),
            digit(year),
            digit(month / 10),
            digit(month),
            digit(day / 10),
            digit(day),
            b'T',
            digit(of_day / 36_000),
            digit(of_day / 3600 % 24 % 10),
            digit(of_day / 600 % 6),
            digit(of_day / 60 % 60),
            digit(of_day / 10 % 6),
            digit(of_day % 60),
            b'Z',
        ];
        Self { seconds, text }
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub fn unix(&self) -> u64 {
        self.seconds
    }

    /// `20260101`: the day that keys and credential scopes are for.
    pub fn date(&self) -> &str {
        ascii(self.text.get(..8).unwrap_or_default())
    }

    /// `20260101T000000Z`: the value of `x-amz-date` and `x-cap-date`.
    pub fn amz(&self) -> &str {
        ascii(&self.text)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.amz())
    }
}

/// Year, month and day of a day counted from 1970-01-01. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`: years begin in March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (1_709_251_199, "20240229T235959Z"),
            (1_735_689_599, "20241231T235959Z"),
            (1_735_689_600, "20250101T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
            (LAST, "99991231T235959Z"),
            (u64::MAX, "99991231T235959Z"),
        ] {
            assert_eq!(Timestamp::from_unix(seconds).amz(), text);
            assert_eq!(Timestamp::from_unix(seconds).date(), &text[..8]);
        }
    }

    /// Every second of a day, and every day of four centuries, by counting up as a calendar on the wall would.
    #[test]
    fn counts_like_a_calendar() {
        for second in 0..SECONDS_A_DAY {
            let clock = format!("T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
            assert!(Timestamp::from_unix(second).amz().ends_with(&clock), "{second}");
        }
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097 {
            assert_eq!(
                Timestamp::from_unix(days * SECONDS_A_DAY).date(),
                format!("{year:04}{month:02}{day:02}")
            );
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
