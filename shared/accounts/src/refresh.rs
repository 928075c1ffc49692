use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use uuid::Uuid;

const SESSION: usize = 16;
const SECRET: usize = 32;

/// The id of a session, and a secret that PostgreSQL keeps the digest of. As text: base64url.
pub struct RefreshToken([u8; SESSION + SECRET]);

impl RefreshToken {
    /// Of a session that begins.
    pub fn random() -> Self {
        let mut bytes = [0; SESSION + SECRET];
        fill(&mut bytes);
        Self(bytes)
    }

    /// The next one of the same session.
    pub fn next(&self) -> Self {
        let mut bytes = self.0;
        fill(&mut bytes[SESSION..]);
        Self(bytes)
    }

    pub fn session(&self) -> Uuid {
        let mut id = [0; SESSION];
        id.copy_from_slice(&self.0[..SESSION]);
        Uuid::from_bytes(id)
    }

    pub fn digest(&self) -> Vec<u8> {
        digest(&SHA256, &self.0).as_ref().to_vec()
    }
}

/// # Panics
/// Where the system has no random bytes, as the standard library does.
#[expect(clippy::expect_used, reason = "without random bytes there is nothing to go on with")]
fn fill(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("random bytes");
}

impl fmt::Display for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for RefreshToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; SESSION + SECRET];
        match BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(length) if length == bytes.len() => Ok(Self(bytes)),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_token_is_of_the_same_session_and_another_secret() {
        let token = RefreshToken::random();
        let next = token.next();
        assert_eq!(token.session(), next.session());
        assert_ne!(token.digest(), next.digest());
        let read: RefreshToken = token.to_string().parse().unwrap();
        assert_eq!((read.session(), read.digest()), (token.session(), token.digest()));
        for text in ["", "a", &token.to_string()[1..], &format!("{token}A"), "!"] {
            assert!(text.parse::<RefreshToken>().is_err(), "{text}");
        }
    }
}
