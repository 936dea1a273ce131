//! Natural numbers of any size: as much of them as decimal numbers need to be read and printed exactly.

/// Limbs of 32 bits, the lowest first, the highest not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Natural {
    limbs: Vec<u32>,
}

/// A power of ten that fits a limb.
const CHUNK: u32 = 1_000_000_000;
/// Its zeros.
const CHUNK_DIGITS: u32 = 9;

impl From<u64> for Natural {
    fn from(number: u64) -> Natural {
        let mut natural = Natural { limbs: vec![low(number), low(number >> 32)] };
        natural.trim();
        natural
    }
}

fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("32 bits are left")
}

impl Natural {
    /// From decimal digits in ASCII.
    pub(super) fn from_digits(digits: &[u8]) -> Natural {
        let mut number = Natural::default();
        for digit in digits {
            number.times_plus(10, u32::from(digit - b'0'));
        }
        number
    }

    fn trim(&mut self) {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }

    fn times_plus(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for limb in &mut self.limbs {
            let product = u64::from(*limb) * u64::from(factor) + carry;
            *limb = low(product);
            carry = product >> 32;
        }
        if carry > 0 {
            self.limbs.push(low(carry));
        }
    }

    pub(super) fn times_power_of_ten(&mut self, mut power: u32) {
        while power >= CHUNK_DIGITS {
            self.times_plus(CHUNK, 0);
            power -= CHUNK_DIGITS;
        }
        self.times_plus(10_u32.pow(power), 0);
    }

    /// Bits without leading zeros.
    pub(super) fn bits(&self) -> usize {
        let leading = self.limbs.last().map_or(0, |limb| limb.leading_zeros() as usize);
        self.limbs.len() * 32 - leading
    }

    fn bit(&self, at: usize) -> bool {
        self.limbs.get(at / 32).is_some_and(|limb| limb >> (at % 32) & 1 == 1)
    }

    /// Whether a bit below `end` is set.
    fn has_bits_below(&self, end: usize) -> bool {
        self.limbs.iter().take(end / 32).any(|limb| *limb != 0) || (end / 32 * 32..end).any(|at| self.bit(at))
    }

    /// The 128 highest bits, from the left, and whether there are others below.
    pub(super) fn top(&self) -> (u128, bool) {
        let bits = self.bits();
        let top = (0..128).fold(0, |top: u128, at| top << 1 | u128::from(at < bits && self.bit(bits - 1 - at)));
        (top, bits > 128 && self.has_bits_below(bits - 128))
    }

    pub(super) fn shift_left(&mut self, by: usize) {
        if self.limbs.is_empty() {
            return;
        }
        // Below 32 by construction, as a factor that fits a limb.
        self.times_plus(1 << (by % 32), 0);
        self.limbs.splice(0..0, std::iter::repeat_n(0, by / 32));
    }

    /// Divides by 2^`by`, rounded half to even.
    pub(super) fn shift_right_rounded(&mut self, by: usize) {
        if by == 0 {
            return;
        }
        let up = self.bit(by - 1) && (self.has_bits_below(by - 1) || self.bit(by));
        let (limbs, bits) = ((by / 32).min(self.limbs.len()), by % 32);
        self.limbs.drain(..limbs);
        for at in 0..self.limbs.len() {
            let above = self.limbs.get(at + 1).copied().unwrap_or(0);
            self.limbs[at] = low((u64::from(above) << 32 | u64::from(self.limbs[at])) >> bits);
        }
        self.trim();
        self.times_plus(1, u32::from(up));
    }

    fn is_at_least(&self, other: &Natural) -> bool {
        self.limbs
            .len()
            .cmp(&other.limbs.len())
            .then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev()))
            .is_ge()
    }

    /// Takes away what is not larger.
    fn minus(&mut self, other: &Natural) {
        let mut borrow = 0;
        for at in 0..self.limbs.len() {
            let taken = u64::from(other.limbs.get(at).copied().unwrap_or(0)) + borrow;
            let limb = u64::from(self.limbs[at]);
            borrow = u64::from(limb < taken);
            self.limbs[at] = low((limb + (borrow << 32)) - taken);
        }
        self.trim();
    }

    /// The quotient, which must have at most 68 bits, and whether something is left over.
    pub(super) fn divided_by(mut self, divisor: &Natural) -> (u128, bool) {
        let mut quotient = 0;
        for bit in (0..68).rev() {
            let mut part = divisor.clone();
            part.shift_left(bit);
            if self.is_at_least(&part) {
                self.minus(&part);
                quotient |= 1_u128 << bit;
            }
        }
        (quotient, !self.limbs.is_empty())
    }

    /// In decimal.
    pub(super) fn digits(mut self) -> String {
        let mut chunks = Vec::new();
        while !self.limbs.is_empty() {
            let mut rest = 0;
            for limb in self.limbs.iter_mut().rev() {
                let dividend = rest << 32 | u64::from(*limb);
                *limb = low(dividend / u64::from(CHUNK));
                rest = dividend % u64::from(CHUNK);
            }
            self.trim();
            chunks.push(rest);
        }
        let first = chunks.pop().unwrap_or(0).to_string();
        chunks.iter().rev().fold(first, |text, chunk| text + &format!("{chunk:09}"))
    }
}
