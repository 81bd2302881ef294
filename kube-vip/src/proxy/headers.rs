//! What of a message must not be passed on, and what is told to the backend besides.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Of one connection only (RFC 9110 §7.6.1), whether `Connection` lists them or not.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The protocol that a message asks to change to, or has changed to.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = listed(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

/// Takes out what belongs to one connection.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = listed(headers).filter_map(|name| name.parse().ok()).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Puts the change of protocol back in.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Says who asked, and for which host; what stood there before stays in front.
pub(super) fn tell(headers: &mut HeaderMap, client: IpAddr, host: Option<&HeaderValue>) {
    let mut chain: Vec<u8> = Vec::new();
    for before in headers.get_all(FORWARDED_FOR) {
        chain.extend_from_slice(before.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(client.to_canonical().to_string().as_bytes());
    if let Ok(chain) = HeaderValue::from_bytes(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    match host {
        Some(host) => headers.insert(FORWARDED_HOST, host.clone()),
        None => headers.remove(FORWARDED_HOST),
    };
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
}

fn listed(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let of = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(of).collect()
    }

    #[test]
    fn what_belongs_to_one_connection_is_not_passed_on() {
        let mut all = headers(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-connection", "x"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
        ]);
        assert_eq!(upgrade(&all), None, "Connection does not list it");
        strip(&mut all);
        assert_eq!(all, headers(&[("content-length", "3"), ("trailer", "x-sum")]));
    }

    #[test]
    fn a_change_of_protocol_is_passed_on_by_name() {
        let mut all = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        let protocol = upgrade(&all).unwrap();
        strip(&mut all);
        assert!(all.is_empty());
        set_upgrade(&mut all, protocol);
        assert_eq!(all, headers(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    #[test]
    fn the_backend_is_told_who_asked() {
        let mut all = headers(&[("x-forwarded-for", "10.0.0.9"), ("x-forwarded-host", "forged")]);
        let host = HeaderValue::from_static("web.example:80");
        tell(&mut all, "::ffff:10.0.0.5".parse().unwrap(), Some(&host));
        assert_eq!(all[FORWARDED_FOR], "10.0.0.9, 10.0.0.5");
        assert_eq!(all[FORWARDED_HOST], "web.example:80");
        assert_eq!(all[FORWARDED_PROTO], "http");
        tell(&mut all, "fd00::5".parse().unwrap(), None);
        assert_eq!(all[FORWARDED_FOR], "10.0.0.9, 10.0.0.5, fd00::5");
        assert!(!all.contains_key(FORWARDED_HOST));
    }
}
