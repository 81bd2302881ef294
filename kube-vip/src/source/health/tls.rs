//! TLS as a client: a certificate authority from a file, or anybody.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::config::Trust;

/// The settings of one check's connections. The file is read again when it has changed.
pub(crate) struct Settings {
    trust: Trust,
    made: Option<(Option<SystemTime>, Arc<ClientConfig>)>,
}

impl Settings {
    pub(crate) fn new(trust: Trust) -> Self {
        Self { trust, made: None }
    }

    /// What a connection is made with now.
    pub(crate) fn get(&mut self) -> Result<Arc<ClientConfig>, String> {
        let changed = match &self.trust {
            Trust::Anybody => None,
            Trust::CaFile(path) => {
                let metadata = std::fs::metadata(path);
                let metadata = metadata.map_err(|error| format!("{}: {error}", path.display()))?;
                metadata.modified().ok()
            }
        };
        match &self.made {
            Some((at, config)) if *at == changed => Ok(Arc::clone(config)),
            _ => {
                let config = Arc::new(make(&self.trust)?);
                self.made = Some((changed, Arc::clone(&config)));
                Ok(config)
            }
        }
    }
}

fn make(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anybody => Arc::new(Anybody(Arc::clone(&provider))),
        Trust::CaFile(path) => {
            let roots = Arc::new(read_roots(path)?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
            verifier.build().map_err(|error| format!("{}: {error}", path.display()))?
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config =
        config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    // A resumed session would not look at the certificate again.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Whether checks can be made with that file.
///
/// # Errors
/// It cannot be read, or has no certificate.
pub(crate) fn check_ca_file(path: &Path) -> Result<(), String> {
    read_roots(path).map(drop)
}

/// The certificates in a PEM file.
fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
        roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{shown}: no certificate in it"));
    }
    Ok(roots)
}

/// Believes every certificate, but not that who shows it has its key without proof.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
