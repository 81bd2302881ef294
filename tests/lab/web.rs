//! HTTP and HTTPS servers whose answers a test chooses, and certificates for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::agent::PATIENCE;
use crate::host::Host;
use crate::net::NetRuntime;
use crate::wait::eventually;

/// A server that answers every request with one status; it ends when this is dropped.
#[derive(Debug)]
pub struct Web {
    status: Arc<AtomicU16>,
    _runtime: NetRuntime,
}

impl Web {
    /// HTTP on each of `addresses`.
    pub fn start(host: &Host, addresses: &[SocketAddr]) -> Result<Self> {
        Self::launch(Some(host), addresses, None)
    }

    /// HTTPS on each of `addresses`, with certificates for them by this authority.
    pub fn with_tls(host: &Host, addresses: &[SocketAddr], by: &Authority) -> Result<Self> {
        Self::launch(Some(host), addresses, Some(&by.server(addresses)?))
    }

    /// Where this process is, for a process that runs in a host already.
    pub fn here(addresses: &[SocketAddr]) -> Result<Self> {
        Self::launch(None, addresses, None)
    }

    /// From now on requests are answered with this status.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn launch(
        host: Option<&Host>,
        addresses: &[SocketAddr],
        tls: Option<&TlsAcceptor>,
    ) -> Result<Self> {
        let runtime = NetRuntime::start(host)?;
        let status = Arc::new(AtomicU16::new(200));
        for &address in addresses {
            eventually(PATIENCE, "a free address", || {
                let (status, tls) = (Arc::clone(&status), tls.cloned());
                runtime.run(async move {
                    let listener = TcpListener::bind(address).await;
                    let listener = listener.with_context(|| format!("listening on {address}"))?;
                    tokio::spawn(accept(listener, status, tls));
                    Ok(())
                })
            })?;
        }
        Ok(Self { status, _runtime: runtime })
    }
}

async fn accept(listener: TcpListener, status: Arc<AtomicU16>, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (status, tls) = (Arc::clone(&status), tls.clone());
        // Clients that do not like the certificate, or break off, are what tests are about.
        tokio::spawn(async move {
            match tls {
                None => answer(stream, &status).await,
                Some(tls) => answer(tls.accept(stream).await?, &status).await,
            }
        });
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    status: &AtomicU16,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && line.trim_end() != "" {
        line.clear();
    }
    let status = status.load(Ordering::Relaxed);
    let head = format!("HTTP/1.1 {status} As Told\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await
}

/// A certificate authority of a test's own.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One that nobody knows yet.
    pub fn new() -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }

    /// Its own certificate, for those who are to believe it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn server(&self, addresses: &[SocketAddr]) -> Result<TlsAcceptor> {
        let names = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.0)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
