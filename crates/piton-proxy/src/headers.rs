//! What a proxy has to change in the heads of requests and responses.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use hyper::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Uri, Version};

use crate::page::Refusal;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Says whether the client asks for a WebSocket.
pub(crate) fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && request.headers().get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && lists(request.headers(), &CONNECTION, b"upgrade")
}

/// Makes the request name its host once, in `Host`, or refuses it (RFC 9112, 3.2).
///
/// Clients of HTTP/1.0 need not name any; theirs is `listen`, because upstreams are spoken to by HTTP/1.1.
pub(crate) fn settle_host<B>(request: &mut Request<B>, listen: SocketAddr) -> Result<(), Refusal> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let may_lack = request.version() < Version::HTTP_11;
    if hosts > 1 || hosts == 0 && !may_lack {
        return Err(Refusal::Host);
    }
    let host = match request.uri().authority() {
        Some(authority) if authority.as_str().contains('@') => return Err(Refusal::Host),
        // A server must take the name from an absolute target, whatever Host says (RFC 9112, 3.2.2).
        Some(authority) => HeaderValue::from_str(authority.as_str()),
        None if hosts == 0 => HeaderValue::from_str(&listen.to_string()),
        None => return Ok(()),
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse::<Uri>();
    if let (Ok(host), Ok(path)) = (host, path) {
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = path;
    }
    Ok(())
}

/// Makes a client's request into the one that the upstream gets.
pub(crate) fn to_upstream<B>(request: &mut Request<B>, client: IpAddr, websocket: bool) {
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let wants_trailers = headers.contains_key(TE) && lists(headers, &TE, b"trailers");
    remove_hop_by_hop(headers);
    if websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    } else if wants_trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // The proxy itself tells the client to go on as soon as the body is wanted.
    headers.remove(EXPECT);
    headers.remove(PROXY_AUTHORIZATION);
    forwarded(headers, client);
}

/// Makes an upstream's response into the one that the client gets.
pub(crate) fn to_client(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(PROXY_AUTHENTICATE);
}

/// Removes what concerns one connection only: what `Connection` lists, and what always does.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            // The usual words name no header that is not removed below.
            .filter(|word| !word.eq_ignore_ascii_case(b"keep-alive") && !word.eq_ignore_ascii_case(b"close"))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // Framing and routing are not the peer's to take away.
            .filter(|name| *name != HOST && *name != hyper::header::CONTENT_LENGTH)
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// Adds the client to `X-Forwarded-For`; keeps the scheme and name that a proxy in front has told.
fn forwarded(headers: &mut HeaderMap, client: IpAddr) {
    let mut chain = BytesMut::with_capacity(48);
    for line in headers.get_all(&FORWARDED_FOR) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    // Writing into a growable buffer cannot fail.
    let _ = write!(chain, "{}", client.to_canonical());
    if let Ok(chain) = HeaderValue::from_maybe_shared(chain.freeze()) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(&FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Says whether a comma-separated header has that element.
fn lists(headers: &HeaderMap, name: &HeaderName, element: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(element))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/a?b=c");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn headers_of_the_connection_stay_with_the_connection() {
        let mut request = request(&[
            ("host", "shop.example"),
            ("connection", "close, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("x-kept", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
        ]);
        to_upstream(&mut request, "192.0.2.7".parse().unwrap(), false);
        assert_eq!(
            names(request.headers()),
            ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-kept"]
        );
    }

    #[test]
    fn a_connection_header_cannot_take_away_the_host_or_the_length() {
        let mut request =
            request(&[("host", "a"), ("content-length", "3"), ("connection", "host, content-length")]);
        to_upstream(&mut request, "192.0.2.7".parse().unwrap(), false);
        assert_eq!(request.headers()["host"], "a");
        assert_eq!(request.headers()["content-length"], "3");
    }

    #[test]
    fn the_client_is_added_to_the_chain_and_the_outer_scheme_is_kept() {
        let mut request = request(&[
            ("host", "inner"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-for", "198.51.100.2, 198.51.100.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outer"),
        ]);
        to_upstream(&mut request, "::ffff:192.0.2.7".parse().unwrap(), false);
        let headers = request.headers();
        assert_eq!(headers[FORWARDED_FOR], "198.51.100.1, 198.51.100.2, 198.51.100.3, 192.0.2.7");
        assert_eq!(headers[FORWARDED_PROTO], "https");
        assert_eq!(headers[FORWARDED_HOST], "outer");
        assert_eq!(headers[HOST], "inner");
    }

    #[test]
    fn an_absolute_target_gives_the_host() {
        let mut request =
            Request::builder().uri("http://right/p?q").header("host", "wrong").body(()).unwrap();
        assert!(settle_host(&mut request, "127.0.0.1:8080".parse().unwrap()).is_ok());
        assert_eq!(request.uri(), "/p?q");
        assert_eq!(request.headers()[HOST], "right");
    }

    #[test]
    fn only_a_whole_websocket_request_keeps_its_upgrade() {
        let mut whole = request(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(asks_for_websocket(&whole));
        to_upstream(&mut whole, "192.0.2.7".parse().unwrap(), true);
        assert_eq!(whole.headers()[UPGRADE], "websocket");
        assert_eq!(whole.headers()[CONNECTION], "Upgrade");
        assert!(!asks_for_websocket(&request(&[("upgrade", "websocket")])));
        assert!(!asks_for_websocket(&request(&[("connection", "upgrade"), ("upgrade", "h2c")])));
    }

    #[test]
    fn a_wish_for_trailers_is_passed_on() {
        let mut request = request(&[("te", "deflate, trailers"), ("connection", "TE")]);
        to_upstream(&mut request, "192.0.2.7".parse().unwrap(), false);
        assert_eq!(request.headers()[TE], "trailers");
        assert_eq!(request.headers()[CONNECTION], "TE");
    }
}
