//! What agents say to each other, as bytes. No I/O.
//!
//! ```text
//! message      version (1 byte) | kind (1 byte) | records
//! translation  family (1) | client | VIP | protocol (1) | server | port of the VIP (2) | state (2)
//!              | seconds since it was last used (4) | next hop to the client (6) | to the server (6)
//! stray        family (1) | client | VIP | protocol (1)
//! answer       version (1) | what became of it (1) | life of the agent (8)
//! ```
//!
//! Families are 4 and 6, an end is an address and a port (2); numbers are in network order. All
//! records of a message are of one kind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dataplane::Flow;
use crate::view::Mac;

/// Of what is below. An agent takes no other version, and says so.
const VERSION: u8 = 1;

const GREETING: u8 = 0;
const TRANSLATIONS: u8 = 1;
const STRAYS: u8 = 2;

/// Most records in a message: as long as they may be, they fit.
pub(super) const MOST: usize = 500;

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It is there.
    Greeting,
    /// It translates these.
    Translations(Vec<Translated>),
    /// It has these.
    Strays(Vec<Flow>),
}

/// A translated flow, as another host can use it: interfaces and numbers are each host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Translated {
    /// The connection.
    pub flow: Flow,
    /// The port of the VIP that it comes from at the backend.
    pub port: u16,
    /// The backend.
    pub server: SocketAddr,
    /// See [`kube_vip_common::nat`].
    pub state: u16,
    /// Seconds since it was last used.
    pub idle: u32,
    /// Where frames to the client go on the network that VIPs are on; all zero: not known.
    pub to_client: Mac,
    /// Where frames to the backend go there.
    pub to_server: Mac,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken.
    Taken = 0,
    /// The agent does not know enough yet.
    Later = 1,
    /// The agent does not understand it.
    Strange = 2,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub outcome: Outcome,
    /// Of the agent that answers.
    pub life: u64,
}

/// It is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("version {0}, this agent speaks {VERSION}")]
    Version(u8),
    #[error("kind {0} is not known")]
    Kind(u8),
    #[error("it is cut short or has records that are none")]
    Records,
}

impl Message {
    /// As it travels.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::Greeting => bytes.push(GREETING),
            Self::Translations(records) => {
                bytes.push(TRANSLATIONS);
                records.iter().for_each(|record| write_translated(&mut bytes, record));
            }
            Self::Strays(flows) => {
                bytes.push(STRAYS);
                flows.iter().for_each(|flow| write_flow(&mut bytes, flow));
            }
        }
        bytes
    }

    /// Out of what has come.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut bytes = Bytes(bytes);
        let version = bytes.byte().ok_or(MessageError::Records)?;
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        let message = match bytes.byte().ok_or(MessageError::Records)? {
            GREETING => bytes.0.is_empty().then_some(Self::Greeting),
            TRANSLATIONS => bytes.all(read_translated).map(Self::Translations),
            STRAYS => bytes.all(read_flow).map(Self::Strays),
            kind => return Err(MessageError::Kind(kind)),
        };
        message.ok_or(MessageError::Records)
    }
}

impl Answer {
    /// As it travels.
    pub(super) fn encode(self) -> Vec<u8> {
        [&[VERSION, self.outcome as u8][..], &self.life.to_be_bytes()].concat()
    }

    /// Out of what has come.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        if bytes.byte()? != VERSION {
            return None;
        }
        let outcome = match bytes.byte()? {
            0 => Outcome::Taken,
            1 => Outcome::Later,
            2 => Outcome::Strange,
            _ => return None,
        };
        let life = u64::from_be_bytes(bytes.take()?);
        bytes.0.is_empty().then_some(Self { outcome, life })
    }
}

fn write_translated(bytes: &mut Vec<u8>, record: &Translated) {
    write_flow(bytes, &record.flow);
    write_end(bytes, record.server);
    bytes.extend_from_slice(&record.port.to_be_bytes());
    bytes.extend_from_slice(&record.state.to_be_bytes());
    bytes.extend_from_slice(&record.idle.to_be_bytes());
    bytes.extend_from_slice(&record.to_client.0);
    bytes.extend_from_slice(&record.to_server.0);
}

fn write_flow(bytes: &mut Vec<u8>, flow: &Flow) {
    bytes.push(if flow.vip.is_ipv4() { 4 } else { 6 });
    write_end(bytes, flow.client);
    write_end(bytes, flow.vip);
    bytes.push(flow.protocol);
}

fn write_end(bytes: &mut Vec<u8>, end: SocketAddr) {
    match end.ip() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.extend_from_slice(&end.port().to_be_bytes());
}

fn read_translated(bytes: &mut Bytes<'_>) -> Option<Translated> {
    let flow = read_flow(bytes)?;
    Some(Translated {
        flow,
        server: bytes.end(flow.vip.is_ipv4())?,
        port: u16::from_be_bytes(bytes.take()?),
        state: u16::from_be_bytes(bytes.take()?),
        idle: u32::from_be_bytes(bytes.take()?),
        to_client: Mac(bytes.take()?),
        to_server: Mac(bytes.take()?),
    })
}

fn read_flow(bytes: &mut Bytes<'_>) -> Option<Flow> {
    let v4 = match bytes.byte()? {
        4 => true,
        6 => false,
        _ => return None,
    };
    Some(Flow { client: bytes.end(v4)?, vip: bytes.end(v4)?, protocol: bytes.byte()? })
}

/// What has not been read yet.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn end(&mut self, v4: bool) -> Option<SocketAddr> {
        let ip: IpAddr = match v4 {
            true => Ipv4Addr::from(self.take::<4>()?).into(),
            false => Ipv6Addr::from(self.take::<16>()?).into(),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)))
    }

    fn all<T>(mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        while !self.0.is_empty() {
            all.push(read(&mut self)?);
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use kube_vip_quorum::transport::MAX_ASIDE;
    use proptest::prelude::*;

    use super::*;

    fn flow(client: &str, vip: &str) -> Flow {
        Flow { client: client.parse().unwrap(), vip: vip.parse().unwrap(), protocol: 6 }
    }

    fn translated(flow: Flow, server: &str) -> Translated {
        Translated {
            flow,
            port: 0x1234,
            server: server.parse().unwrap(),
            state: 3,
            idle: 0x0102_0304,
            to_client: Mac([1, 2, 3, 4, 5, 6]),
            to_server: Mac([7, 8, 9, 10, 11, 12]),
        }
    }

    fn v4() -> Flow {
        flow("10.0.0.1:40000", "10.0.0.100:80")
    }

    fn v6() -> Flow {
        flow("[fd00::1]:40000", "[fd00::100]:80")
    }

    #[test]
    fn bytes_and_messages() {
        let v4_bytes = [4, 10, 0, 0, 1, 0x9c, 0x40, 10, 0, 0, 100, 0, 80, 6];
        let mut v6_bytes = vec![6, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x9c, 0x40];
        v6_bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 80, 6]);
        let rest = [&[0x12, 0x34, 0, 3, 1, 2, 3, 4][..], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]
            .concat();
        let server = [10, 0, 0, 9, 0x1f, 0x90];
        let cases = [
            (vec![1, 0], Message::Greeting),
            (vec![1, 1], Message::Translations(vec![])),
            (vec![1, 2], Message::Strays(vec![])),
            ([&[1, 2], &v4_bytes[..], &v6_bytes].concat(), Message::Strays(vec![v4(), v6()])),
            (
                [&[1, 1], &v4_bytes[..], &server, &rest].concat(),
                Message::Translations(vec![translated(v4(), "10.0.0.9:8080")]),
            ),
        ];
        for (bytes, message) in cases {
            assert_eq!(message.encode(), bytes);
            assert_eq!(Message::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_said() {
        let cases: [(&[u8], MessageError); 8] = [
            (&[], MessageError::Records),
            (&[1], MessageError::Records),
            (&[2, 0], MessageError::Version(2)),
            (&[1, 3], MessageError::Kind(3)),
            (&[1, 0, 0], MessageError::Records),
            (&[1, 2, 5], MessageError::Records),
            (&[1, 2, 4, 10, 0, 0, 1], MessageError::Records),
            (&[1, 1, 4, 10, 0, 0, 1, 0, 80, 10, 0, 0, 2, 0, 80, 6], MessageError::Records),
        ];
        for (bytes, error) in cases {
            assert_eq!(Message::decode(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn bytes_and_answers() {
        let life = 0x0102_0304_0506_0708;
        for (outcome, byte) in [(Outcome::Taken, 0), (Outcome::Later, 1), (Outcome::Strange, 2)] {
            let bytes = vec![1, byte, 1, 2, 3, 4, 5, 6, 7, 8];
            let answer = Answer { outcome, life };
            assert_eq!(answer.encode(), bytes);
            assert_eq!(Answer::decode(&bytes), Some(answer));
        }
        let wrong: [&[u8]; 4] = [&[], &[2, 0, 1, 2, 3, 4, 5, 6, 7, 8], &[1, 3], &[1, 0, 1, 2, 3]];
        for bytes in wrong {
            assert_eq!(Answer::decode(bytes), None);
        }
    }

    #[test]
    fn the_longest_message_may_be_sent() {
        let longest = vec![translated(v6(), "[fd00::9]:8080"); MOST];
        assert!(Message::Translations(longest).encode().len() <= MAX_ASIDE);
        assert!(Message::Strays(vec![v6(); MOST]).encode().len() <= MAX_ASIDE);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..4) {
            let _ = (Message::decode(&bytes), Answer::decode(&bytes));
            let framed = [&[VERSION, kind], &bytes[..]].concat();
            if let Ok(message) = Message::decode(&framed) {
                prop_assert_eq!(message.encode(), framed);
            }
        }
    }
}
