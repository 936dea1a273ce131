//! Writes that wait until other regions durably hold them, too.

use std::time::Duration;

use super::{Client, ClientError, Condition, Held, Incremented, PutOptions, Written, delete_of, increment_of, put_of};
use crate::wire::Message;
use crate::wire::body::Wait;

/// Which other regions shall hold a write before its last answer, and how long that may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    regions: u8,
    within: Duration,
}

impl Elsewhere {
    /// So many other regions, from 1 to 254, whichever they are.
    #[must_use]
    pub fn in_regions(regions: u8, within: Duration) -> Elsewhere {
        Elsewhere { regions: regions.clamp(1, Wait::ALL_REGIONS - 1), within }
    }

    /// All other regions that have a member.
    #[must_use]
    pub fn in_all_regions(within: Duration) -> Elsewhere {
        Elsewhere { regions: Wait::ALL_REGIONS, within }
    }

    fn wait(self) -> Wait {
        let deadline_ms = u32::try_from(self.within.as_millis()).unwrap_or(u32::MAX).max(1);
        Wait { regions: self.regions, deadline_ms }
    }
}

/// Writes of one [`Client`] that wait for other regions; see [`Client::held`].
///
/// Each gives what the node itself answers, and, if something was written, who else holds it. [`Held::reached`] is false when the
/// deadline passed first. **The write stands then, too:** it is durable at the node, and the other regions get it later.
#[derive(Debug)]
pub struct HeldWrites<'a> {
    client: &'a mut Client,
    elsewhere: Elsewhere,
}

impl Client {
    /// Writes that wait until other regions durably hold them.
    pub fn held(&mut self, elsewhere: Elsewhere) -> HeldWrites<'_> {
        HeldWrites { client: self, elsewhere }
    }
}

impl HeldWrites<'_> {
    /// As [`Client::put_with`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn put_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: PutOptions,
    ) -> Result<(Written, Option<Held>), ClientError> {
        self.write(&put_of(key.as_ref(), value.as_ref(), options, self.elsewhere.wait()))
    }

    /// As [`Client::delete_if`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete_if(
        &mut self,
        key: impl AsRef<[u8]>,
        condition: Condition,
    ) -> Result<(Written, Option<Held>), ClientError> {
        self.write(&delete_of(key.as_ref(), condition, self.elsewhere.wait()))
    }

    /// As [`Client::increment`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn increment(&mut self, key: impl AsRef<[u8]>, by: i64) -> Result<(Incremented, Held), ClientError> {
        let connection = &mut self.client.connection;
        let id = connection.send(&increment_of(key.as_ref(), by, self.elsewhere.wait()))?;
        match connection.receive(id)? {
            Message::Incremented(incremented) => Ok((incremented, connection.receive_held(id, self.elsewhere.within)?)),
            other => Err(connection.unexpected(&other)),
        }
    }

    fn write(&mut self, request: &Message) -> Result<(Written, Option<Held>), ClientError> {
        let connection = &mut self.client.connection;
        let id = connection.send(request)?;
        match connection.receive(id)? {
            Message::Written(written @ Written::Written { .. }) => {
                Ok((written, Some(connection.receive_held(id, self.elsewhere.within)?)))
            }
            Message::Written(written) => Ok((written, None)),
            other => Err(connection.unexpected(&other)),
        }
    }
}
