//! How far the connection to PostgreSQL is trusted, and what to say when it is not.

use std::{str::FromStr, sync::Arc};

use config::Env;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// Amazon RDS signs with authorities of its own, one for each region, that no public store of roots has.
const RDS_BUNDLE: &[u8] = include_bytes!("../rds.pem");

/// TLS as configured.
#[derive(Clone, Debug)]
pub(crate) enum Tls {
    Disabled,
    /// Encrypted, to whoever answers.
    Unverified,
    /// The certificate must be signed by one of these roots, for the host that was asked for.
    Verified(Arc<RootCertStore>, Authority),
}

/// Where the trusted roots come from: for error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    Public,
    Rds,
    /// By DATABASE_CA.
    Given,
    /// By the field `ca` of the secret.
    Secret,
}

enum Mode {
    VerifyFull,
    Require,
    Disable,
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "verify-full" => Ok(Self::VerifyFull),
            "require" => Ok(Self::Require),
            "disable" => Ok(Self::Disable),
            _ => Err(()),
        }
    }
}

impl Tls {
    /// DATABASE_SSLMODE and DATABASE_CA.
    pub(crate) fn from_env(env: &mut Env) -> Self {
        let mode = env.parsed("DATABASE_SSLMODE", Mode::VerifyFull, "verify-full, require or disable", |_: &Mode| true);
        let authority = env.optional("DATABASE_CA");
        if authority.is_some() && !matches!(mode, Mode::VerifyFull) {
            // Ignored in silence, it would leave its owner believing that the server is verified.
            env.problem("DATABASE_CA needs DATABASE_SSLMODE verify-full: nothing is verified otherwise");
        }
        match (mode, authority.as_deref().map(str::trim)) {
            (Mode::Disable, _) => Self::Disabled,
            (Mode::Require, _) => Self::Unverified,
            (Mode::VerifyFull, None) => Self::Verified(Arc::new(public_roots()), Authority::Public),
            (Mode::VerifyFull, Some("rds")) => {
                Self::Verified(Arc::new(roots(RDS_BUNDLE).unwrap_or_else(RootCertStore::empty)), Authority::Rds)
            }
            (Mode::VerifyFull, Some(pem)) => {
                let roots = roots(pem.as_bytes()).unwrap_or_else(|| {
                    env.problem("DATABASE_CA must be certificates in PEM, or the word rds");
                    RootCertStore::empty()
                });
                Self::Verified(Arc::new(roots), Authority::Given)
            }
        }
    }

    /// The same with the authority that the secret names; where DATABASE_CA names one, that one stays.
    pub(crate) fn with_authority(&self, pem: &str) -> Result<Self, &'static str> {
        match self {
            Self::Disabled | Self::Unverified => {
                Err("its ca needs DATABASE_SSLMODE verify-full: nothing is verified otherwise")
            }
            Self::Verified(_, Authority::Rds | Authority::Given) => Ok(self.clone()),
            Self::Verified(..) => {
                let roots = roots(pem.as_bytes()).ok_or("its ca is not one or more certificates in PEM")?;
                Ok(Self::Verified(Arc::new(roots), Authority::Secret))
            }
        }
    }

    /// The client side of it; nothing where TLS is disabled.
    pub(crate) fn client_config(&self) -> Result<Option<ClientConfig>, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match self {
            Self::Disabled => return Ok(None),
            Self::Unverified => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            }
            Self::Verified(roots, _) => builder.with_root_certificates(Arc::clone(roots)),
        };
        Ok(Some(builder.with_no_client_auth()))
    }

    /// What is wrong with the server's certificate, and the remedy. `None`: nothing, the connection failed otherwise.
    pub(crate) fn explain(&self, error: &tokio_postgres::Error) -> Option<String> {
        let rustls::Error::InvalidCertificate(problem) = find_tls_error(error)? else { return None };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others have no remedy of their own")]
        let explanation = match problem {
            // BadSignature: an authority of the same name and with another key, as after its renewal.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match self {
                Self::Verified(_, Authority::Given) => {
                    "it is not signed by the authority in DATABASE_CA; put there the PEM of the authority that signed it, \
                     or `rds` for Amazon RDS"
                        .to_owned()
                }
                Self::Verified(_, Authority::Secret) => {
                    "it is not signed by the authority in the field `ca` of the secret; put there the PEM of the authority \
                     that signed it"
                        .to_owned()
                }
                Self::Verified(_, Authority::Rds) => {
                    "it is not signed by an authority of Amazon RDS, which DATABASE_CA asks for; set DATABASE_CA to nothing, \
                     and put the PEM of the authority that signed it into the secret, as its field `ca`, unless it is a public one"
                        .to_owned()
                }
                Self::Verified(_, Authority::Public) | Self::Unverified | Self::Disabled => {
                    "it is not signed by a public authority; put the PEM of the authority that signed it into the secret, \
                     as its field `ca`, or set DATABASE_CA to `rds` for Amazon RDS"
                        .to_owned()
                }
            },
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it is for another host; set DATABASE_HOST (or the secret's host) to a name in the certificate".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it has expired; renew it on the server".to_owned()
            }
            other => format!("{other}"),
        };
        Some(explanation)
    }
}

fn public_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// All the certificates of a PEM; nothing if there is none, or one is malformed.
fn roots(pem: &[u8]) -> Option<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store.add(certificate.ok()?).ok()?;
    }
    (!store.is_empty()).then_some(store)
}

/// An I/O error hides the error that it was made from: `source` gives that one's source.
fn find_tls_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// For sslmode `require`: any certificate will do, if the server holds its key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(pairs: &[(&str, &str)]) -> (Tls, Result<(), config::Error>) {
        let mut env = Env::from_pairs(pairs.iter().copied());
        let tls = Tls::from_env(&mut env);
        (tls, env.finish())
    }

    #[test]
    fn the_server_is_verified_by_public_roots_unless_told_otherwise() {
        assert!(matches!(tls(&[]), (Tls::Verified(roots, Authority::Public), Ok(())) if !roots.is_empty()));
        assert!(matches!(tls(&[("DATABASE_SSLMODE", "require")]), (Tls::Unverified, Ok(()))));
        assert!(matches!(tls(&[("DATABASE_SSLMODE", "disable")]), (Tls::Disabled, Ok(()))));
    }

    #[test]
    fn the_bundle_of_rds_is_readable() {
        let authorities = RDS_BUNDLE.windows(10).filter(|window| window == b"-----BEGIN").count();
        let (Tls::Verified(roots, Authority::Rds), Ok(())) = tls(&[("DATABASE_CA", "rds")]) else {
            panic!("`rds` is not taken");
        };
        assert_eq!(roots.len(), authorities);
    }

    #[test]
    fn a_malformed_authority_is_named_without_its_content() {
        for ca in ["s3cret", "-----BEGIN CERTIFICATE-----\ns3cret\n-----END CERTIFICATE-----"] {
            let told = tls(&[("DATABASE_CA", ca)]).1.unwrap_err().to_string();
            assert!(told.contains("DATABASE_CA must be certificates in PEM") && !told.contains("s3cret"), "{told}");
        }
    }

    #[test]
    fn an_authority_that_nothing_is_verified_by_is_refused() {
        let told = tls(&[("DATABASE_CA", "rds"), ("DATABASE_SSLMODE", "require")]).1.unwrap_err().to_string();
        assert!(told.contains("DATABASE_CA needs DATABASE_SSLMODE verify-full"), "{told}");
        assert!(tls(&[("DATABASE_SSLMODE", "verify-ca")]).1.is_err());
        for mode in ["require", "disable"] {
            let told = tls(&[("DATABASE_SSLMODE", mode)]).0.with_authority("s3cret").unwrap_err();
            assert!(told.contains("its ca needs DATABASE_SSLMODE verify-full"), "{told}");
        }
    }
}
