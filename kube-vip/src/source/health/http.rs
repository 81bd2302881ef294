//! As much of HTTP/1.1 as a probe needs: one GET, and the status of its answer (RFC 9112 §3, §4).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A status line is read no further than this; the rest of the answer is not read at all.
const LONGEST: usize = 256;

/// The request; both texts were checked to be visible ASCII.
pub(super) fn request(path: &str, host: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-vip/{}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

/// Sends the request and reads the status.
pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
) -> Result<u16, String> {
    let in_words = |error: io::Error| super::probe::in_words(&error);
    stream.write_all(request).await.map_err(in_words)?;
    stream.flush().await.map_err(in_words)?;
    let mut line = Vec::with_capacity(LONGEST);
    while !line.contains(&b'\n') && line.len() < LONGEST {
        let room = (LONGEST - line.len()) as u64;
        if stream.take(room).read_buf(&mut line).await.map_err(in_words)? == 0 {
            break;
        }
    }
    status(&line).ok_or_else(|| match line.first() {
        None => "closed without an answer".to_owned(),
        Some(_) => "the answer is not HTTP".to_owned(),
    })
}

/// The status in an answer's first line.
pub(crate) fn status(answer: &[u8]) -> Option<u16> {
    let line = &answer[..answer.iter().position(|byte| *byte == b'\n')?];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let [minor, b' ', digits @ ..] = line.strip_prefix(b"HTTP/1.")? else { return None };
    // The reason may be missing, and often its space is too.
    let (digits, rest) = digits.split_at_checked(3)?;
    let all = minor.is_ascii_digit() && digits.iter().all(u8::is_ascii_digit);
    if !all || !matches!(rest, [] | [b' ', ..]) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn status_lines_are_read_and_nothing_else_is() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK\r\nServer: x\r\n", Some(200)),
            ("HTTP/1.0 503 Service Unavailable\n", Some(503)),
            ("HTTP/1.1 204 \r\n", Some(204)),
            ("HTTP/1.1 404\r\n", Some(404)),
            ("HTTP/1.1 200 OK", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 20 OK\r\n", None),
            ("HTTP/2 200 OK\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("", None),
            ("\n", None),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes: Vec<u8>) {
            status(&bytes);
        }

        #[test]
        fn each_status_is_read(number in 100u16..1000, reason in "[ -~]{0,40}") {
            let line = format!("HTTP/1.1 {number} {reason}\r\n");
            prop_assert_eq!(status(line.as_bytes()), Some(number));
        }
    }
}
