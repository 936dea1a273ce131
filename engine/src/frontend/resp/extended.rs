//! The arithmetic of `INCRBYFLOAT`: Redis computes with x87's 80-bit floats (a `long double` with a mantissa of 64 bits) and prints 17
//! decimals. The same is done here in integers, so that results are the same to the last digit.
//!
//! Every step is exact and then rounded once, half to even, as IEEE 754 wants it and as glibc's `strtold` and `printf` do it.

mod natural;

use natural::Natural;

/// The longest number that Redis reads, in bytes (`MAX_LONG_DOUBLE_CHARS`).
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;

/// Numbers from 2 to this power on are infinite.
const EXPONENT_END: i64 = 16_384;

/// Half of the smallest positive number is 2 to this power.
const EXPONENT_MIN: i64 = -16_446;

/// No decimal exponent beyond this is in range, whatever digits it belongs to.
const DECIMAL_EXPONENT_MAX: i64 = 20_000;

/// Decimals that are printed.
const DECIMALS: usize = 17;

/// A number: ± mantissa × 2^exponent. The highest bit of the mantissa is set, unless it is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

/// What a text or a sum may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Finite(Extended),
    Infinite,
}

impl Number {
    /// Reads a number as Redis does; `None` if it is none.
    pub(super) fn parse(text: &[u8]) -> Option<Number> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Number::Infinite);
        }
        let (digits, power) = decimal(rest)?;
        let extended = from_decimal(negative, &digits, power)?;
        Some(Number::Finite(extended))
    }

    /// The sum; [`Number::Infinite`] if it is not a number, either.
    pub(super) fn plus(self, other: Number) -> Number {
        match (self, other) {
            (Number::Finite(a), Number::Finite(b)) => {
                a.plus(b).filter(|sum| !sum.is_infinite()).map_or(Number::Infinite, Number::Finite)
            }
            _ => Number::Infinite,
        }
    }
}

/// Splits a decimal number into its digits without leading zeros, and the power of ten that they are multiplied by.
fn decimal(text: &[u8]) -> Option<(Vec<u8>, i64)> {
    let end = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
    let (number, exponent) = text.split_at(end);
    let mut parts = number.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let power = match exponent {
        [] => 0,
        [_, b'-', rest @ ..] => -power_of(rest)?,
        [_, b'+', rest @ ..] | [_, rest @ ..] => power_of(rest)?,
    };
    let power = power - i64::try_from(fraction.len()).ok()?;
    let leading = digits.iter().take_while(|digit| **digit == b'0').count();
    Some((digits[leading..].to_vec(), power))
}

/// The digits of an exponent; large ones are all the same.
fn power_of(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |power: i64, digit| (power * 10 + i64::from(digit - b'0')).min(DECIMAL_EXPONENT_MAX)))
}

/// `None` outside the range of such numbers, as `strtold` says `ERANGE`.
fn from_decimal(negative: bool, digits: &[u8], power: i64) -> Option<Extended> {
    if digits.is_empty() {
        return Some(Extended { negative, mantissa: 0, exponent: 0 });
    }
    let magnitude = power + i64::try_from(digits.len()).ok()?;
    if magnitude.abs() > DECIMAL_EXPONENT_MAX / 2 {
        return None;
    }
    let mut number = Natural::from_digits(digits);
    let rounded = if let Ok(power) = u32::try_from(power) {
        number.times_power_of_ten(power);
        let exponent = i64::try_from(number.bits()).ok()? - 128;
        let (top, inexact) = number.top();
        rounded(negative, top, exponent, inexact)
    } else {
        let mut divisor = Natural::from_digits(b"1");
        divisor.times_power_of_ten(u32::try_from(-power).ok()?);
        // Either one so far to the left that the quotient has 66 or 67 bits: the mantissa, and what decides how it is rounded.
        let (above, below) = (number.bits(), divisor.bits() + 66);
        number.shift_left(below.saturating_sub(above));
        divisor.shift_left(above.saturating_sub(below));
        let (quotient, inexact) = number.divided_by(&divisor);
        rounded(negative, quotient, i64::try_from(above).ok()? - i64::try_from(below).ok()?, inexact)
    };
    let in_range = !rounded.is_infinite() && rounded.exponent + 64 > EXPONENT_MIN;
    in_range.then_some(rounded)
}

/// Rounds `number` × 2^`exponent` to 64 bits; `inexact`: something smaller than its last bit was left out.
fn rounded(negative: bool, number: u128, exponent: i64, inexact: bool) -> Extended {
    let zeros = number.leading_zeros();
    if zeros == 128 {
        return Extended { negative, mantissa: 0, exponent: 0 };
    }
    let aligned = number << zeros;
    let (mantissa, rest) = (high_half(aligned), low_half(aligned));
    let half = 1_u64 << 63;
    let up = rest > half || rest == half && (inexact || mantissa & 1 == 1);
    let exponent = exponent - i64::from(zeros) + 64;
    match mantissa.checked_add(u64::from(up)) {
        Some(mantissa) => Extended { negative, mantissa, exponent },
        None => Extended { negative, mantissa: half, exponent: exponent + 1 },
    }
}

fn high_half(number: u128) -> u64 {
    u64::try_from(number >> 64).expect("64 bits are left")
}

fn low_half(number: u128) -> u64 {
    u64::try_from(number & u128::from(u64::MAX)).expect("64 bits are left")
}

impl Extended {
    fn is_infinite(self) -> bool {
        self.mantissa != 0 && self.exponent + 64 > EXPONENT_END
    }

    fn plus(self, other: Extended) -> Option<Extended> {
        if self.mantissa == 0 || other.mantissa == 0 {
            let both_zero = self.mantissa == other.mantissa;
            let negative = self.negative && other.negative;
            let present = if self.mantissa == 0 { other } else { self };
            return Some(if both_zero { Extended { negative, ..present } } else { present });
        }
        let (large, small) = if (self.exponent, self.mantissa) >= (other.exponent, other.mantissa) {
            (self, other)
        } else {
            (other, self)
        };
        // One bit is left for the carry. What the smaller one loses on its way down is remembered as one bit.
        let distance = u32::try_from(large.exponent - small.exponent).ok()?;
        let (high, low) = (u128::from(large.mantissa) << 62, u128::from(small.mantissa) << 62);
        let moved = low.checked_shr(distance).unwrap_or(0);
        let inexact = distance > 62 && moved.checked_shl(distance).unwrap_or(0) != low;
        let exponent = large.exponent - 62;
        if large.negative == small.negative {
            return Some(rounded(large.negative, high + moved, exponent, inexact));
        }
        let difference = high - moved - u128::from(inexact);
        Some(rounded(large.negative && difference > 0, difference, exponent, inexact))
    }
}

impl std::fmt::Display for Extended {
    /// As C's `%.17Lf`, without zeros at the end.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut scaled = Natural::from(self.mantissa);
        scaled.times_power_of_ten(u32::try_from(DECIMALS).unwrap_or(0));
        match usize::try_from(self.exponent) {
            Ok(shift) => scaled.shift_left(shift),
            Err(_) => scaled.shift_right_rounded(usize::try_from(-self.exponent).unwrap_or(usize::MAX)),
        }
        let mut digits = scaled.digits();
        while digits.len() <= DECIMALS {
            digits.insert(0, '0');
        }
        let fraction = digits.split_off(digits.len() - DECIMALS);
        let fraction = fraction.trim_end_matches('0');
        if self.negative && (digits != "0" || !fraction.is_empty()) {
            formatter.write_str("-")?;
        }
        formatter.write_str(&digits)?;
        if fraction.is_empty() { Ok(()) } else { write!(formatter, ".{fraction}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: &str, b: &str) -> String {
        match Number::parse(a.as_bytes()).unwrap().plus(Number::parse(b.as_bytes()).unwrap()) {
            Number::Finite(sum) => sum.to_string(),
            Number::Infinite => "infinite".into(),
        }
    }

    /// The expected values are Redis 7.0.15's on x86-64.
    #[test]
    fn sums_are_those_of_redis() {
        for (a, b, expected) in [
            ("0", "0.1", "0.1"),
            ("0.1", "0.2", "0.3"),
            ("3.0", "1.1", "4.1"),
            ("5.0e3", "200", "5200"),
            ("10.50", "0.1", "10.6"),
            ("1", "-1.1", "-0.1"),
            ("17179869184", "1.5", "17179869185.5"),
            ("0", "3.14159265358979323846", "3.14159265358979324"),
            ("1e20", "0.1", "100000000000000000000"),
            ("-1", "1", "0"),
            ("0", "-0", "0"),
            ("0", "-1e-30", "0"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "+.5", "0.5"),
            ("0", "5.", "5"),
            ("1000000000000000000000000000000000000000000000000.5", "-1e48", "0"),
            (
                "-777777777777777777777777777777777777777777777.25",
                "0.25",
                "-777777777777777777785855975318463638132490240",
            ),
            ("1e4932", "1e4932", "infinite"),
            ("0", "inf", "infinite"),
        ] {
            assert_eq!(sum(a, b), expected, "{a} + {b}");
            assert_eq!(sum(b, a), expected, "{b} + {a}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let long = "1".repeat(TEXT_BYTES_MAX + 1);
        for text in ["", " 1", "1 ", "1e", "e5", ".", "-", "nan", "1.2.3", "1e4933", "1e-4960", "0x", "1_0", &long] {
            assert_eq!(Number::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["1e4932", "1e-4940", "0e99999999999999999999", "-Infinity", "00012", &long[1..1000]] {
            assert!(Number::parse(text.as_bytes()).is_some(), "{text}");
        }
    }
}
