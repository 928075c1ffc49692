use std::time::{Duration, SystemTime, UNIX_EPOCH};

use database::accounts::Account;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use secrets::Secrets;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;

/// What the operator's claims cannot say.
const OURS: [&str; 9] = ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "email", "email_verified"];

/// The keys of the secret, read anew as it is.
#[derive(Debug)]
pub struct Keys {
    secrets: Secrets,
    secret_arn: String,
}

#[derive(Deserialize)]
struct Pems {
    /// Signs. A PKCS #8 key of P-256.
    private_key: String,
    /// What signed before: its tokens are taken until they end.
    previous_key: Option<String>,
}

impl Keys {
    pub fn new(secrets: Secrets, secret_arn: String) -> Self {
        Self { secrets, secret_arn }
    }

    /// Both public keys, as they are now.
    pub async fn public(&self) -> Result<JwkSet, Error> {
        let Pems { private_key, previous_key } = self.secrets.refresh(&self.secret_arn).await?;
        let keys = [Some(private_key), previous_key].into_iter().flatten();
        Ok(JwkSet { keys: keys.map(|pem| Ok(read(&pem)?.1)).collect::<Result<_, Error>>()? })
    }

    /// What signs.
    pub async fn signer(&self) -> Result<Signer, Error> {
        let Pems { private_key, .. } = self.secrets.tokens(&self.secret_arn).await?;
        let (key, public) = read(&private_key)?;
        Ok(Signer { key, id: public.common.key_id })
    }
}

/// The key that signs, and its name.
pub struct Signer {
    key: EncodingKey,
    id: Option<String>,
}

impl Signer {
    /// A token of this account.
    pub fn sign(&self, issuer: &str, audience: &str, account: &Account, lives: Duration) -> Result<String, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut claims = account.claims.as_object().cloned().unwrap_or_default();
        claims.retain(|name, _| !OURS.contains(&name.as_str()));
        let ours = json!({
            "iss": issuer, "aud": audience, "sub": account.id.to_string(), "iat": now, "exp": now + lives.as_secs(),
            "email": account.email, "email_verified": false,
        });
        if let Value::Object(ours) = ours {
            claims.extend(ours);
        }
        let header = Header { kid: self.id.clone(), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &self.key).map_err(|error| Error::Keys(error.to_string()))
    }
}

/// A private key, and its public one, whose id is its thumbprint (RFC 7638).
fn read(pem: &str) -> Result<(EncodingKey, Jwk), Error> {
    let unreadable = || {
        let words = "a key in it is no private key of P-256 as PKCS #8; make one by openssl genpkey -algorithm EC -pkeyopt \
                     ec_paramgen_curve:P-256";
        Error::Keys(words.to_owned())
    };
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable())?;
    let key = EncodingKey::from_ec_der(der.secret_pkcs8_der());
    let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(|_| unreadable())?;
    public.common.key_id = Some(public.thumbprint(ThumbprintHash::SHA256).map_err(|_| unreadable())?);
    public.common.public_key_use = Some(PublicKeyUse::Signature);
    Ok((key, public))
}
