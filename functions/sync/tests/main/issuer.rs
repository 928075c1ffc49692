//! An issuer of tokens, as a server of its own on this machine.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by its panic")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const AUDIENCE: &str = "an app";

/// A key that signs.
pub enum Signer {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    pub fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn rs256() -> Self {
        Self::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn ed_dsa() -> Self {
        Self::EdDsa(Ed25519KeyPair::generate().unwrap())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    pub fn jwk(&self, id: &str) -> Value {
        let mut jwk = match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
            }
            Self::Rs256(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({"kty": "RSA", "n": base64url(n.big_endian_without_leading_zero()), "e": base64url(e.big_endian_without_leading_zero())})
            }
            Self::EdDsa(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())}),
        };
        jwk["kid"] = json!(id);
        jwk["use"] = json!("sig");
        jwk
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message =
            format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es256(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::EdDsa(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64url(&signature))
    }
}

pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain([0; 2].iter()).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        (0..=chunk.len()).for_each(|digit| text.push(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char));
    }
    text
}

/// What the issuer says, and how often it was asked.
#[derive(Default)]
pub struct Said {
    pub issuer: String,
    pub keys: Vec<Value>,
    pub is_away: bool,
    pub asked: u32,
}

pub struct Issuer {
    pub url: String,
    said: Arc<Mutex<Said>>,
}

impl Issuer {
    /// With these keys.
    pub async fn start(keys: Vec<Value>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/realms/a", listener.local_addr()?);
        let said = Arc::new(Mutex::new(Said { issuer: url.clone(), keys, ..Said::default() }));
        let discovery = {
            let (said, jwks_uri) = (Arc::clone(&said), format!("{url}/keys"));
            async move || {
                let said = said.lock().unwrap_or_else(PoisonError::into_inner);
                let status = if said.is_away { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
                (status, Json(json!({"issuer": said.issuer, "jwks_uri": jwks_uri})))
            }
        };
        let jwks = {
            let said = Arc::clone(&said);
            async move || {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                said.asked += 1;
                Json(json!({"keys": said.keys}))
            }
        };
        let router = Router::new()
            .route("/realms/a/.well-known/openid-configuration", get(discovery))
            .route("/realms/a/keys", get(jwks));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, said })
    }

    pub fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims that are right for an hour.
    #[allow(clippy::needless_pass_by_value, reason = "it is given as json! makes it")]
    pub fn claims(&self, more: Value) -> Value {
        let mut claims = json!({"iss": self.url, "aud": AUDIENCE, "exp": now() + 3600});
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }
}

/// In seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
