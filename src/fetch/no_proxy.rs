//! Servers that are asked without a proxy: the variable `no_proxy`.
//!
//! No standard says what it may hold. This reads what curl, Go and apt's users write:
//!
//! | entry | exempts |
//! |---|---|
//! | `*` | every server |
//! | `a.example`, `.a.example`, `*.a.example` | this host and all below it |
//! | `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]` | this address, however a URL writes it |
//! | `192.0.2.0/24`, `2001:db8::/32` | these addresses |
//! | any of these with `:PORT` (an IPv6 address in brackets) | that port of it |
//!
//! Entries stand between commas or blanks. Names are not looked up, so that a network
//! exempts no host that is called by a name.

use std::net::IpAddr;

use super::location::is_https;

/// The servers of a `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoProxy {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// A name in lower case, and all below it.
    Domain(String),
    /// Addresses whose first bits are these.
    Network(IpAddr, u8),
}

impl NoProxy {
    /// Reads the variable's value. What makes no sense exempts nothing.
    pub fn parse(value: &str) -> NoProxy {
        let entries = value
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .filter_map(|entry| {
                let parsed = Entry::parse(entry);
                if parsed.is_none() {
                    tracing::debug!(entry, "no_proxy has an entry that names no server");
                }
                parsed
            })
            .collect();
        NoProxy { entries }
    }

    /// Tells whether the server of an `http` or `https` URL is one of them.
    pub fn exempts(&self, url: &str) -> bool {
        self.exempt_host(url).is_some()
    }

    /// The server of an `http` or `https` URL, without its port, if it is one of them.
    pub fn exempt_host<'u>(&self, url: &'u str) -> Option<&'u str> {
        let authority = url.split('/').nth(2).unwrap_or("");
        let server = authority
            .rsplit_once('@')
            .map_or(authority, |(_, server)| server);
        let (host, port) = split_port(server)?;
        let port = port.unwrap_or(if is_https(url) { 443 } else { 80 });
        let exempt = self.entries.iter().any(|entry| {
            entry.port.is_none_or(|wanted| wanted == port) && entry.host.contains(host)
        });
        exempt.then_some(host)
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Entry> {
        if text == "*" {
            let host = Host::Any;
            return Some(Entry { host, port: None });
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address = parse_address(address)?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= longest)?;
            let host = Host::Network(address, bits);
            return Some(Entry { host, port: None });
        }
        let (host, port) = split_port(text)?;
        let host = match parse_address(host) {
            Some(address) if address.is_ipv4() => Host::Network(address, 32),
            Some(address) => Host::Network(address, 128),
            None => {
                let name = host.strip_prefix('*').unwrap_or(host);
                let name = name.trim_matches('.').to_ascii_lowercase();
                // A lone dot names no host, least of all every one.
                if name.is_empty() {
                    return None;
                }
                Host::Domain(name)
            }
        };
        Some(Entry { host, port })
    }
}

impl Host {
    fn contains(&self, host: &str) -> bool {
        let address = parse_address(host);
        match (self, address) {
            (Host::Any, _) => true,
            (Host::Network(network, bits), Some(address)) => in_network(address, *network, *bits),
            // What looks like the end of an address is none of its domains.
            (Host::Domain(_), Some(_)) | (Host::Network(..), None) => false,
            (Host::Domain(name), None) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

/// Takes `host:port` apart; an IPv6 address without brackets has no port.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':')?)),
            }
        }
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    match port {
        None | Some("") => Some((host, None)),
        Some(port) => Some((host, Some(port.parse().ok()?))),
    }
}

/// Reads an address, in brackets or not. One of IPv4 in IPv6's form is that of IPv4.
fn parse_address(text: &str) -> Option<IpAddr> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address: IpAddr = inner.unwrap_or(text).parse().ok()?;
    Some(address.to_canonical())
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let rest = width.saturating_sub(u32::from(bits));
        // All of them where no bit counts.
        (a ^ b).checked_shr(rest).unwrap_or(0) == 0
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `no_proxy`, a URL, and whether its server is exempt.
    type Case = (&'static str, &'static str, bool);

    fn check(cases: &[Case]) {
        for &(no_proxy, url, exempt) in cases {
            let found = NoProxy::parse(no_proxy).exempts(url);
            assert_eq!(found, exempt, "{no_proxy} {url}");
        }
    }

    #[test]
    fn names_exempt_hosts_and_all_below_them() {
        check(&[
            ("a.example", "http://a.example/x", true),
            ("a.example", "http://b.a.example:80/x", true),
            (".a.example", "http://b.a.example/", true),
            (".a.example", "http://a.example/", true),
            ("*.a.example", "http://b.a.example/", true),
            ("a.example", "http://ba.example/", false),
            ("A.Example.", "http://b.a.EXAMPLE./", true),
            ("a.example", "http://a.example.evil/", false),
            ("*", "https://x/", true),
            ("x, *", "https://y/", true),
            ("b", "http://u:p@a/x", false),
            ("a", "http://u:p@a/x", true),
            ("x a.example\ty", "http://a.example/", true),
            ("", "http://a/", false),
            (".", "http://a/", false),
            ("*.", "http://a/", false),
            (",,", "http://a/", false),
        ]);
    }

    #[test]
    fn addresses_and_networks_exempt_what_is_called_by_an_address() {
        check(&[
            ("127.0.0.1", "http://127.0.0.1:8000/x", true),
            ("0.0.1", "http://127.0.0.1/", false),
            ("10.0.0.0/8", "http://10.200.3.4/", true),
            ("10.0.0.0/8", "http://11.0.0.1/", false),
            ("10.1.2.3/8", "http://10.200.3.4:3142/", true),
            ("192.168.1.128/25", "http://192.168.1.127/", false),
            ("192.168.1.128/25", "http://192.168.1.200/", true),
            ("0.0.0.0/0", "http://1.2.3.4/", true),
            ("0.0.0.0/0", "http://[::1]/", false),
            ("0.0.0.0/0", "http://a.example/", false),
            ("10.0.0.0/33", "http://10.0.0.1/", false),
            ("10.0.0.0/x", "http://10.0.0.0/", false),
            ("::1", "http://[::1]:8000/x", true),
            ("[::1]", "http://[::1]/", true),
            ("0:0:0:0:0:0:0:1", "http://[::1]/", true),
            ("2001:DB8::/32", "http://[2001:db8:5::1]/", true),
            ("[2001:db8::]/32", "http://[2001:db8:5::1]/", true),
            ("2001:db8::/32", "http://[2001:db9::1]/", false),
            ("::/0", "http://[2001:db9::1]/", true),
            ("10.0.0.0/8", "http://[::ffff:10.1.1.1]/", true),
        ]);
    }

    #[test]
    fn a_port_exempts_that_port_only() {
        check(&[
            ("a.example:8080", "http://a.example:8080/", true),
            ("a.example:8080", "http://b.a.example:8080/", true),
            (".a.example:8080", "http://b.a.example:8080/", true),
            ("a.example:8080", "http://a.example/", false),
            ("a.example:80", "http://a.example/", true),
            ("a.example:443", "https://a.example/", true),
            ("a.example:80", "https://a.example/", false),
            ("a.example:", "https://a.example/", true),
            ("a.example:x", "https://a.example/", false),
            ("127.0.0.1:3142", "http://127.0.0.1:3142/", true),
            ("127.0.0.1:3142", "http://127.0.0.1/", false),
            ("[::1]:8000", "http://[::1]:8000/", true),
            ("[::1]:8000", "http://[::1]/", false),
        ]);
    }
}
