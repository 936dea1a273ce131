//! `List` (anyone local → node): instances in all regions; `ListLocal`: of this region only.
//!
//! Rules:
//! - An empty service name asks for all services. Answered by `ListReply`, or by `Error`.
//! - Instances that are gone are listed only with `WITH_GONE`, for people who ask why; routers must not see them.

use bytes::BufMut;

use super::Body;
use crate::ids::{SERVICE_NAME_BYTES_MAX, ServiceName};
use crate::wire::codec::{Reader, put_bytes};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// List what is gone, too, as long as it is remembered.
pub const WITH_GONE: u16 = 1;

/// Asks for instances in all regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Which service; `None` = all.
    pub service: Option<ServiceName>,
    /// Also those that are gone.
    pub with_gone: bool,
}

/// Asks for instances of this region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListLocal {
    /// Which service; `None` = all.
    pub service: Option<ServiceName>,
    /// Also those that are gone.
    pub with_gone: bool,
}

fn put_filter(out: &mut Vec<u8>, service: Option<&ServiceName>, with_gone: bool) -> Result<(), EncodeError> {
    out.put_u16_le(if with_gone { WITH_GONE } else { 0 });
    let name = service.map_or("", ServiceName::as_str);
    put_bytes(out, "service", name.as_bytes(), SERVICE_NAME_BYTES_MAX)
}

fn read_filter(reader: &mut Reader<'_>) -> Result<(Option<ServiceName>, bool), DecodeError> {
    let with_gone = reader.flags("list flags", WITH_GONE)? == WITH_GONE;
    Ok(match reader.text("service", SERVICE_NAME_BYTES_MAX)? {
        "" => (None, with_gone),
        name => (Some(ServiceName::parse(name)?), with_gone),
    })
}

impl Body for List {
    const OPCODE: Opcode = Opcode::List;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_filter(out, self.service.as_ref(), self.with_gone)
    }

    fn read(reader: &mut Reader<'_>) -> Result<List, DecodeError> {
        let (service, with_gone) = read_filter(reader)?;
        Ok(List { service, with_gone })
    }
}

impl Body for ListLocal {
    const OPCODE: Opcode = Opcode::ListLocal;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_filter(out, self.service.as_ref(), self.with_gone)
    }

    fn read(reader: &mut Reader<'_>) -> Result<ListLocal, DecodeError> {
        let (service, with_gone) = read_filter(reader)?;
        Ok(ListLocal { service, with_gone })
    }
}
