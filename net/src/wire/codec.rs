//! Reading and writing body fields: little-endian, bounds-checked, no panic, no length believed before it is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes};

use super::error::{DecodeError, EncodeError};
use super::limits::{KEY_BYTES_MAX, REGIONS_MAX, VALUE_BYTES_MAX};
use crate::ids::{LogId, RegionName, ServiceName};

/// Smallest encoded address: family, IPv4, port.
pub const ADDRESS_BYTES_MIN: usize = 7;

/// Declares an enum with explicit wire codes, both directions and a name for each.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident: $repr:ty { $($(#[$variant_meta:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($repr)]
        pub enum $name { $($(#[$variant_meta])* $variant = $code,)+ }

        impl $name {
            /// All of them, in order of their codes.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The number on the wire.
            #[must_use]
            pub fn code(self) -> $repr {
                match self { $($name::$variant => $code,)+ }
            }

            /// The inverse of `code`.
            #[must_use]
            pub fn from_code(code: $repr) -> Option<$name> {
                match code { $($code => Some($name::$variant),)+ _ => None }
            }

            /// Its name in documents and log lines.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant),)+ }
            }
        }
    };
}
pub(crate) use codes;

/// A cursor over one body.
#[derive(Debug)]
pub struct Reader<'a> {
    body: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(body: &'a Bytes) -> Reader<'a> {
        Reader { body, at: 0 }
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn left(&self) -> usize {
        self.body.len() - self.at
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// `Short` when the body ends before.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let left = self.left();
        let bytes = self
            .body
            .get(self.at..)
            .and_then(|rest| rest.get(..len))
            .ok_or(DecodeError::Short { needed: len, left })?;
        self.at += len;
        Ok(bytes)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// `Short` when the body ends before.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let left = self.left();
        let bytes = self.take(N)?;
        <[u8; N]>::try_from(bytes).map_err(|_| DecodeError::Short { needed: N, left })
    }

    /// One byte.
    ///
    /// # Errors
    /// `Short`.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// `Short`.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// `Short`.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// `Short`.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A log: node, incarnation.
    ///
    /// # Errors
    /// `Short`.
    pub fn log(&mut self) -> Result<LogId, DecodeError> {
        let node = crate::ids::NodeId(self.u32()?);
        let incarnation = crate::ids::Incarnation(self.u64()?);
        Ok(LogId { node, incarnation })
    }

    /// Flags of which only `known` may be set.
    ///
    /// # Errors
    /// `Short`, `Flags`.
    pub fn flags(&mut self, field: &'static str, known: u16) -> Result<u16, DecodeError> {
        let flags = self.u16()?;
        if flags & !known != 0 {
            return Err(DecodeError::Flags { field, flags });
        }
        Ok(flags)
    }

    /// The length of a list whose items take at least `item_bytes_min` each, so that nothing is reserved for items
    /// that cannot be there.
    ///
    /// # Errors
    /// `Short`, `TooMany`.
    pub fn count(&mut self, field: &'static str, max: usize, item_bytes_min: usize) -> Result<usize, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > max {
            return Err(DecodeError::TooMany { field, count, max });
        }
        let (needed, left) = (count * item_bytes_min, self.left());
        if needed > left {
            return Err(DecodeError::Short { needed, left });
        }
        Ok(count)
    }

    /// A u16 length and that many bytes.
    ///
    /// # Errors
    /// `Short`, `TooLong`.
    pub fn bytes(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(DecodeError::TooLong { field, len, max });
        }
        self.take(len)
    }

    /// A u16 length and that many bytes of UTF-8.
    ///
    /// # Errors
    /// `Short`, `TooLong`, `Utf8`.
    pub fn text(&mut self, field: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(field, max)?).map_err(|_| DecodeError::Utf8 { field })
    }

    /// A region name.
    ///
    /// # Errors
    /// As `text`, and `Name`.
    pub fn region(&mut self) -> Result<RegionName, DecodeError> {
        Ok(RegionName::parse(self.text("region", crate::ids::REGION_NAME_BYTES_MAX)?)?)
    }

    /// Region names.
    ///
    /// # Errors
    /// As `count` and `region`.
    pub fn regions(&mut self) -> Result<Vec<RegionName>, DecodeError> {
        let count = self.count("regions", REGIONS_MAX, 3)?;
        (0..count).map(|_| self.region()).collect()
    }

    /// A service name.
    ///
    /// # Errors
    /// As `text`, and `Name`.
    pub fn service(&mut self) -> Result<ServiceName, DecodeError> {
        Ok(ServiceName::parse(self.text("service", crate::ids::SERVICE_NAME_BYTES_MAX)?)?)
    }

    /// An address: family 4 or 6, the IP in network order, the port.
    ///
    /// # Errors
    /// `Short`, `Value`.
    pub fn address(&mut self) -> Result<SocketAddr, DecodeError> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            family => return Err(DecodeError::Value { field: "address family", value: family.into() }),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    /// A u16 length and that many bytes, without a copy: a key.
    ///
    /// # Errors
    /// `Short`.
    pub fn key(&mut self) -> Result<Bytes, DecodeError> {
        let len = usize::from(self.u16()?);
        self.slice(len)
    }

    /// A u32 length and that many bytes, without a copy: a value. The body's own limit bounds it.
    ///
    /// # Errors
    /// `Short`.
    pub fn value(&mut self) -> Result<Bytes, DecodeError> {
        // A length beyond the address space is longer than any body.
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        self.slice(len)
    }

    fn slice(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        let start = self.at;
        self.take(len)?;
        Ok(self.body.slice(start..self.at))
    }

    /// Everything that is left, without a copy.
    #[must_use]
    pub fn rest(&mut self) -> Bytes {
        let rest = self.body.slice(self.at..);
        self.at = self.body.len();
        rest
    }

    /// The body must end here.
    ///
    /// # Errors
    /// `Trailing`.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing { left }),
        }
    }
}

/// The inverse of [`Reader::log`].
pub fn put_log(out: &mut Vec<u8>, log: LogId) {
    out.put_u32_le(log.node.0);
    out.put_u64_le(log.incarnation.0);
}

/// The inverse of [`Reader::count`].
///
/// # Errors
/// `TooMany`.
pub fn put_count(out: &mut Vec<u8>, field: &'static str, count: usize, max: usize) -> Result<(), EncodeError> {
    match u16::try_from(count) {
        Ok(short) if count <= max => out.put_u16_le(short),
        _ => return Err(EncodeError::TooMany { field, count, max }),
    }
    Ok(())
}

/// The inverse of [`Reader::bytes`].
///
/// # Errors
/// `TooLong`.
pub fn put_bytes(out: &mut Vec<u8>, field: &'static str, bytes: &[u8], max: usize) -> Result<(), EncodeError> {
    match u16::try_from(bytes.len()) {
        Ok(len) if bytes.len() <= max => out.put_u16_le(len),
        _ => return Err(EncodeError::TooLong { field, len: bytes.len(), max }),
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// The inverse of [`Reader::key`].
///
/// # Errors
/// `TooLong`.
pub fn put_key(out: &mut Vec<u8>, key: &[u8]) -> Result<(), EncodeError> {
    put_bytes(out, "key", key, KEY_BYTES_MAX)
}

/// The inverse of [`Reader::value`].
///
/// # Errors
/// `TooLong`.
pub fn put_value(out: &mut Vec<u8>, value: &[u8]) -> Result<(), EncodeError> {
    put_value_len(out, value.len())?;
    out.extend_from_slice(value);
    Ok(())
}

/// The length before a value.
///
/// # Errors
/// `TooLong`.
pub fn put_value_len(out: &mut Vec<u8>, len: usize) -> Result<(), EncodeError> {
    match u32::try_from(len) {
        Ok(short) if len <= VALUE_BYTES_MAX => out.put_u32_le(short),
        _ => return Err(EncodeError::TooLong { field: "value", len, max: VALUE_BYTES_MAX }),
    }
    Ok(())
}

/// The inverse of [`Reader::region`]; a parsed name always fits.
///
/// # Errors
/// None in practice; `TooLong` keeps the signature uniform.
pub fn put_region(out: &mut Vec<u8>, region: &RegionName) -> Result<(), EncodeError> {
    put_bytes(out, "region", region.as_str().as_bytes(), crate::ids::REGION_NAME_BYTES_MAX)
}

/// The inverse of [`Reader::regions`].
///
/// # Errors
/// [`EncodeError::TooMany`].
pub fn put_regions(out: &mut Vec<u8>, regions: &[RegionName]) -> Result<(), EncodeError> {
    put_count(out, "regions", regions.len(), REGIONS_MAX)?;
    regions.iter().try_for_each(|region| put_region(out, region))
}

/// The inverse of [`Reader::service`]; a parsed name always fits.
///
/// # Errors
/// None in practice; `TooLong` keeps the signature uniform.
pub fn put_service(out: &mut Vec<u8>, service: &ServiceName) -> Result<(), EncodeError> {
    put_bytes(out, "service", service.as_str().as_bytes(), crate::ids::SERVICE_NAME_BYTES_MAX)
}

/// The inverse of [`Reader::address`]. IPv6 scope and flow label do not travel: they mean nothing on another host.
pub fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.put_u16_le(address.port());
}

/// Bytes that [`put_address`] appends.
#[must_use]
pub fn address_bytes(address: SocketAddr) -> usize {
    if address.is_ipv4() { ADDRESS_BYTES_MIN } else { ADDRESS_BYTES_MIN + 12 }
}

/// `text` cut to `max` bytes at a character boundary, so that a long reason is shortened rather than lost.
#[must_use]
pub fn clipped(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}
