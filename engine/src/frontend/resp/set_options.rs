//! The options of `SET`.

use net::resp::{Args, parse_integer};

use super::{NOT_AN_INTEGER, SYNTAX_ERROR};

/// Condition on the present value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Always.
    #[default]
    Always,
    /// `NX`.
    IfAbsent,
    /// `XX`.
    IfPresent,
    /// `IFEQ`: the value is this.
    IfEqual(&'a [u8]),
    /// `IFNE`: there is no value, or another one.
    IfDifferent(&'a [u8]),
}

/// What happens to the expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// The new value does not expire.
    #[default]
    None,
    /// `KEEPTTL`.
    Keep,
    /// Absent from this instant on, in milliseconds since 1970.
    At(u64),
}

/// Parsed options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOptions<'a> {
    /// `NX`, `XX`, `IFEQ` or `IFNE`.
    pub condition: Condition<'a>,
    /// `EX`, `PX`, `EXAT`, `PXAT`, `KEEPTTL`.
    pub expiry: Expiry,
    /// `GET`.
    pub get: bool,
}

/// Parses what follows `SET key value`. `now_unix_ms` is what relative times count from.
///
/// # Errors
/// Redis' error text.
pub fn parse(args: Args<'_>, now_unix_ms: u64) -> Result<SetOptions<'_>, String> {
    let mut options = SetOptions::default();
    // Judged last: a syntax error counts for more than a wrong time. One unit may be repeated, the last time holds.
    let mut unit_and_time: Option<(&[u8], &[u8])> = None;
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let is_free = |condition| options.condition == Condition::Always || options.condition == condition;
        if is("NX") && is_free(Condition::IfAbsent) {
            options.condition = Condition::IfAbsent;
        } else if is("XX") && is_free(Condition::IfPresent) {
            options.condition = Condition::IfPresent;
        } else if is("IFEQ") && options.condition == Condition::Always {
            options.condition = Condition::IfEqual(words.next().ok_or(SYNTAX_ERROR)?);
        } else if is("IFNE") && options.condition == Condition::Always {
            options.condition = Condition::IfDifferent(words.next().ok_or(SYNTAX_ERROR)?);
        } else if is("GET") {
            options.get = true;
        } else if is("KEEPTTL") && unit_and_time.is_none() {
            options.expiry = Expiry::Keep;
        } else if (is("EX") || is("PX") || is("EXAT") || is("PXAT"))
            && options.expiry == Expiry::None
            && unit_and_time.as_ref().is_none_or(|(unit, _)| unit.eq_ignore_ascii_case(word))
        {
            unit_and_time = Some((word, words.next().ok_or(SYNTAX_ERROR)?));
        } else {
            return Err(SYNTAX_ERROR.into());
        }
    }
    if let Some((unit, time)) = unit_and_time {
        options.expiry = Expiry::At(in_unit(unit, time, now_unix_ms, "set")?);
    }
    Ok(options)
}

/// What `GETEX` does to the expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryChange<'a> {
    /// Nothing.
    None,
    /// `PERSIST`.
    Remove,
    /// `EX`, `PX`, `EXAT` or `PXAT`, and the time, which nobody looks at if there is no such key.
    To(&'a [u8], &'a [u8]),
}

/// Parses what follows `GETEX key`.
///
/// # Errors
/// Redis' error text.
pub fn parse_change(args: Args<'_>) -> Result<ExpiryChange<'_>, String> {
    let mut change = ExpiryChange::None;
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let may_be_set = match change {
            ExpiryChange::None => true,
            ExpiryChange::Remove => false,
            ExpiryChange::To(unit, _) => unit.eq_ignore_ascii_case(word),
        };
        if is("PERSIST") && !matches!(change, ExpiryChange::To(..)) {
            change = ExpiryChange::Remove;
        } else if (is("EX") || is("PX") || is("EXAT") || is("PXAT")) && may_be_set {
            change = ExpiryChange::To(word, words.next().ok_or(SYNTAX_ERROR)?);
        } else {
            return Err(SYNTAX_ERROR.into());
        }
    }
    Ok(change)
}

/// The expiry that `EX`, `PX`, `EXAT` or `PXAT` and a time mean, in milliseconds since 1970.
///
/// # Errors
/// Redis' error text.
pub fn in_unit(unit: &[u8], time: &[u8], now_unix_ms: u64, command: &str) -> Result<u64, String> {
    let unit = unit.to_ascii_uppercase();
    expiry_at(time, unit.starts_with(b"EX"), unit.ends_with(b"AT"), now_unix_ms, command)
}

/// An expiry that must lie in the future (`SET`, `SETEX`), as milliseconds since 1970.
///
/// # Errors
/// Redis' error text.
pub fn expiry_at(time: &[u8], seconds: bool, absolute: bool, now_unix_ms: u64, command: &str) -> Result<u64, String> {
    let time = parse_integer(time).ok_or(NOT_AN_INTEGER)?;
    let invalid = || format!("ERR invalid expire time in '{command}' command");
    if time <= 0 {
        return Err(invalid());
    }
    to_unix_ms(time, seconds, absolute, now_unix_ms).and_then(|at| u64::try_from(at).ok()).ok_or_else(invalid)
}

/// A time argument as milliseconds since 1970; `None` on overflow. May lie in the past.
#[must_use]
pub fn to_unix_ms(time: i64, seconds: bool, absolute: bool, now_unix_ms: u64) -> Option<i64> {
    let time = if seconds { time.checked_mul(1000)? } else { time };
    if absolute { Some(time) } else { time.checked_add(i64::try_from(now_unix_ms).ok()?) }
}
