//! `http` URLs through a proxy.
//!
//! ```text
//!  https://a.example/x   CONNECT a.example:443          a tunnel, then TLS in it
//!  http://a.example/x    GET http://a.example/x         the proxy itself asks
//! ```
//!
//! The HTTP library wants a tunnel for either. Proxies refuse tunnels to any port but
//! 443 (squid as it comes, apt-cacher-ng), and keep no copy of what goes through one. So
//! a connection for an `http` URL is made to the proxy here, and the begin of every
//! request on it gets the URL's scheme and host
//! ([RFC 9112, section 3.2.2](https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2)).

use std::io;

use ureq::config::Config;
use ureq::http::uri::Scheme;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};
use ureq::{Proxy, ProxyProtocol};

use super::credentials;

/// Connects as the library does, but for `http` URLs that have a proxy.
#[derive(Debug)]
pub struct ForwardingConnector {
    standard: DefaultConnector,
    /// How to connect to the proxy itself.
    direct: Config,
}

impl ForwardingConnector {
    /// `direct` is the agent's configuration without its proxy.
    pub fn new(direct: Config) -> ForwardingConnector {
        ForwardingConnector {
            standard: DefaultConnector::default(),
            direct,
        }
    }

    fn forward(
        &self,
        details: &ConnectionDetails<'_>,
        proxy: &Proxy,
    ) -> Result<Forwarded, ureq::Error> {
        let addresses = details
            .resolver
            .resolve(proxy.uri(), &self.direct, details.timeout)?;
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs: addresses,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let port = details.uri.port_u16();
        Ok(Forwarded {
            inner: (details.run_connector)(&to_proxy)?,
            origin: format!(
                "http://{}{}",
                details.uri.host().unwrap_or_default(),
                port.map_or_else(String::new, |port| format!(":{port}"))
            ),
            credentials: proxy.username().or(proxy.password()).map(|_| {
                let user = proxy.username().unwrap_or_default();
                credentials::basic(user, proxy.password().unwrap_or_default())
            }),
            begins: true,
        })
    }
}

impl Connector<()> for ForwardingConnector {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let forwards = |proxy: &&Proxy| {
            matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
                && details.uri.scheme() == Some(&Scheme::HTTP)
        };
        match details.config.proxy().filter(forwards) {
            Some(proxy) => Ok(Some(Box::new(self.forward(details, proxy)?))),
            None => self.standard.connect(details, chained),
        }
    }
}

/// A connection to a proxy that asks for the URLs of one origin.
#[derive(Debug)]
struct Forwarded {
    inner: Box<dyn Transport>,
    /// Scheme, host and port of the URLs.
    origin: String,
    /// For the proxy.
    credentials: Option<String>,
    /// What is sent next is the begin of a request.
    begins: bool,
}

impl Forwarded {
    /// The begin of a request in the form that the proxy wants.
    fn rewritten(&self, begin: &[u8]) -> Option<Vec<u8>> {
        let target = begin.iter().position(|byte| *byte == b' ')? + 1;
        let line = begin.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let (method, rest) = begin.split_at(target);
        let (rest, headers) = rest.split_at_checked(line.checked_sub(target)?)?;
        let mut whole = [method, self.origin.as_bytes(), rest].concat();
        if let Some(credentials) = &self.credentials {
            whole.extend(format!("Proxy-Authorization: {credentials}\r\n").bytes());
        }
        whole.extend_from_slice(headers);
        Some(whole)
    }
}

impl Transport for Forwarded {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if !std::mem::replace(&mut self.begins, false) {
            return self.inner.transmit_output(amount, timeout);
        }
        let begin = self.inner.buffers().output()[..amount].to_vec();
        let whole = self.rewritten(&begin).ok_or_else(|| {
            io::Error::other("the request's first line does not fit into the buffer")
        })?;
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            let output = self.inner.buffers().output();
            let (now, later) = rest.split_at(rest.len().min(output.len()));
            output[..now.len()].copy_from_slice(now);
            self.inner.transmit_output(now.len(), timeout)?;
            rest = later;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    /// Asked when a request is over and before the next one, never within one.
    fn is_open(&mut self) -> bool {
        self.begins = true;
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::{Arc, Mutex};

    use ureq::unversioned::transport::LazyBuffers;

    /// Keeps what is sent.
    #[derive(Debug)]
    struct Sink(LazyBuffers, Arc<Mutex<Vec<u8>>>);

    impl Transport for Sink {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.0
        }

        fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
            let sent = &self.0.output()[..amount];
            self.1.lock().expect("not poisoned").extend_from_slice(sent);
            Ok(())
        }

        fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
            Ok(false)
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn the_begin_of_each_request_is_rewritten_and_no_body() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        // So small that the longer begin does not fit at once.
        let buffers = LazyBuffers::new(64, 64);
        let mut transport = Forwarded {
            inner: Box::new(Sink(buffers, Arc::clone(&sent))),
            origin: "http://a.example:81".to_owned(),
            credentials: Some(credentials::basic("me", "it")),
            begins: true,
        };
        let send = |transport: &mut Forwarded, text: &str| {
            let timeout = NextTimeout::default();
            transport.buffers().output()[..text.len()].copy_from_slice(text.as_bytes());
            transport
                .transmit_output(text.len(), timeout)
                .expect("sent");
            let mut sent = sent.lock().expect("not poisoned");
            String::from_utf8(std::mem::take(&mut *sent)).expect("text")
        };
        let begin = "PUT /x HTTP/1.1\r\nhost: a.example:81\r\n\r\n";
        let expected = "PUT http://a.example:81/x HTTP/1.1\r\n\
                        Proxy-Authorization: Basic bWU6aXQ=\r\nhost: a.example:81\r\n\r\n";
        assert_eq!(send(&mut transport, begin), expected);
        // A body may look like a request.
        assert_eq!(send(&mut transport, begin), begin);
        assert!(transport.is_open());
        assert_eq!(send(&mut transport, begin), expected);
    }
}
