//! User names and passwords within URLs, as `Basic` credentials
//! ([RFC 7617](https://www.rfc-editor.org/rfc/rfc7617)).

use super::location::percent_decode;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Splits `user:password@` off a URL, and makes of it what the header
/// `Authorization` has; `%40` and its like stand for what they encode.
pub fn split(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((userinfo, host)) = authority.rsplit_once('@') else {
        return (url.to_owned(), None);
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decoded = |text: &str| percent_decode(text).unwrap_or_else(|| text.to_owned());
    let credentials = basic(&decoded(user), &decoded(password));
    (format!("{scheme}://{host}{path}"), Some(credentials))
}

/// The value of `Authorization` or `Proxy-Authorization`.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// [RFC 4648, section 4](https://www.rfc-editor.org/rfc/rfc4648#section-4).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            // Three bytes are four digits, two are three, one is two.
            let digit = DIGITS.iter().cycle().nth((bits >> shift & 63) as usize);
            text.push(match digit {
                Some(digit) if at <= group.len() => char::from(*digit),
                _ => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_decoded_and_taken_off() {
        for (url, bare, credentials) in [
            ("http://a.example/x@y", "http://a.example/x@y", None),
            // RFC 7617's example.
            (
                "https://Aladdin:open%20sesame@a.example:8443/x?y",
                "https://a.example:8443/x?y",
                Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ),
            (
                "http://me:s%40c@[::1]/",
                "http://[::1]/",
                Some("Basic bWU6c0Bj"),
            ),
            ("http://token@a", "http://a", Some("Basic dG9rZW46")),
            ("http://a:100%@b/", "http://b/", Some("Basic YToxMDAl")),
        ] {
            let expected = (bare.to_owned(), credentials.map(str::to_owned));
            assert_eq!(split(url), expected, "{url}");
        }
    }
}
