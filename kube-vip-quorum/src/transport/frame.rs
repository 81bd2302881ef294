//! Messages on a stream of bytes. No I/O.
//!
//! ```text
//! stream   length (2 bytes) | chunk | length | chunk ...
//! chunk    as sealed by the session: flag (1 byte: 1 in the last chunk) | part of the message
//! message  kind (1 byte) | number (8 bytes) | body
//! ```

/// Longer messages are refused; a snapshot of a thousand VIPs has a few hundred kilobytes.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Longest message that is somebody else's: what is urgent waits for the writing of one at most, on
/// a processor, never on a connection.
pub const MAX_ASIDE: usize = 48 << 10;

/// Longest chunk on the stream: what a Noise message may have.
pub(super) const MAX_CHUNK: usize = 65535;

/// What a session may add to a chunk.
const OVERHEAD: usize = 16;
const MAX_PART: usize = MAX_CHUNK - OVERHEAD - 1;
const HEADER: usize = 9;

/// The stream does not carry messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A chunk without a flag, or with one that means nothing.
    #[error("a chunk of a message does not begin with its flag")]
    Flag,
    /// A message that is too long.
    #[error("a message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// A message without its header, or of an unknown kind.
    #[error("a message does not begin with kind and number")]
    Header,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Wants an answer with the same number.
    Request = 0,
    /// That answer.
    Answer = 1,
    /// Wants an answer too, but is somebody else's: what it says is not looked at here.
    Aside = 2,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) number: u64,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The chunks to seal and send, in order.
    pub(super) fn chunks(&self) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.push(self.kind as u8);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.body);
        if bytes.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong);
        }
        let parts = bytes.chunks(MAX_PART);
        let last = parts.len() - 1;
        let chunk = |(at, part): (usize, &[u8])| [&[u8::from(at == last)], part].concat();
        Ok(parts.enumerate().map(chunk).collect())
    }

    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (header, body) = bytes.split_at_checked(HEADER).ok_or(FrameError::Header)?;
        let (kind, number) = match header {
            [0, number @ ..] => (Kind::Request, number),
            [1, number @ ..] => (Kind::Answer, number),
            [2, number @ ..] => (Kind::Aside, number),
            _ => return Err(FrameError::Header),
        };
        let number = number.try_into().map_err(|_| FrameError::Header)?;
        Ok(Self { kind, number: u64::from_le_bytes(number), body: body.to_vec() })
    }
}

/// Puts messages together from opened chunks.
#[derive(Debug, Default)]
pub(super) struct Assembler(Vec<u8>);

impl Assembler {
    /// Takes the next chunk; a message, if it was its last one.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Option<Message>, FrameError> {
        let (flag, part) = chunk.split_first().ok_or(FrameError::Flag)?;
        if self.0.len() + part.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong);
        }
        self.0.extend_from_slice(part);
        match flag {
            0 => Ok(None),
            1 => Message::decode(&std::mem::take(&mut self.0)).map(Some),
            _ => Err(FrameError::Flag),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_and_messages() {
        let cases: [(&[u8], Kind, u64, &[u8]); 4] = [
            (b"\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00", Kind::Request, 1, b""),
            (b"\x01\x01\x00\x01\x00\x00\x00\x00\x00\x00ab", Kind::Answer, 256, b"ab"),
            (b"\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00", Kind::Request, u64::MAX, b"\x00"),
            (b"\x01\x02\x03\x00\x00\x00\x00\x00\x00\x00ab", Kind::Aside, 3, b"ab"),
        ];
        for (bytes, kind, number, body) in cases {
            let message = Message { kind, number, body: body.to_vec() };
            assert_eq!(message.chunks().unwrap(), [bytes]);
            assert_eq!(Assembler::default().push(bytes), Ok(Some(message)));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let cases: [(&[u8], FrameError); 4] = [
            (b"", FrameError::Flag),
            (b"\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00", FrameError::Flag),
            (b"\x01\x00\x01\x00\x00\x00\x00\x00\x00", FrameError::Header),
            (b"\x01\x03\x01\x00\x00\x00\x00\x00\x00\x00", FrameError::Header),
        ];
        for (bytes, error) in cases {
            assert_eq!(Assembler::default().push(bytes), Err(error));
        }
    }

    #[test]
    fn length_is_bounded_both_ways() {
        let long =
            Message { kind: Kind::Request, number: 0, body: vec![0; MAX_MESSAGE - HEADER + 1] };
        assert_eq!(long.chunks(), Err(FrameError::TooLong));
        let mut assembler = Assembler::default();
        let chunk = [&[0], &[7; MAX_PART][..]].concat();
        let fitting = MAX_MESSAGE / MAX_PART;
        for _ in 0..fitting {
            assert_eq!(assembler.push(&chunk), Ok(None));
        }
        assert_eq!(assembler.push(&chunk), Err(FrameError::TooLong));
    }

    proptest! {
        #[test]
        fn messages_survive_being_cut_into_chunks(
            number in any::<u64>(),
            answer in any::<bool>(),
            length in prop_oneof![0usize..100, MAX_PART - 12..MAX_PART + 12, 0usize..300_000],
            fill in any::<u8>(),
        ) {
            let kind = if answer { Kind::Answer } else { Kind::Request };
            let message = Message { kind, number, body: vec![fill; length] };
            let chunks = message.chunks().unwrap();
            let mut assembler = Assembler::default();
            let (last, others) = chunks.split_last().unwrap();
            for chunk in others {
                prop_assert!(chunk.len() + OVERHEAD <= MAX_CHUNK);
                prop_assert_eq!(assembler.push(chunk), Ok(None));
            }
            prop_assert!(last.len() + OVERHEAD <= MAX_CHUNK);
            prop_assert_eq!(assembler.push(last), Ok(Some(message)));
        }

        #[test]
        fn no_chunk_makes_it_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut assembler = Assembler::default();
            for chunk in chunks {
                let _ = assembler.push(&chunk);
            }
        }
    }
}
