use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Each takes 19 MiB and some milliseconds of a core: so much is the process's share, whoever asks.
const AT_ONCE: usize = 2;

/// Of an account that does not exist: to find it out takes as long.
static NOBODYS: LazyLock<String> = LazyLock::new(|| hash("nobody has this password"));

/// Passwords by argon2id (RFC 9106), with what OWASP recommends: 19 MiB, two passes, one lane.
#[derive(Debug)]
pub struct Passwords(Semaphore);

impl Default for Passwords {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Passwords {
    /// A PHC string with a salt of its own.
    pub async fn hash(&self, password: &str) -> String {
        let password = password.to_owned();
        self.work(move || hash(&password)).await
    }

    /// Whether it is the password of this PHC string; of none, after the same time, it is not.
    pub async fn is(&self, password: &str, hash: Option<String>) -> bool {
        let password = password.to_owned();
        self.work(move || {
            let known = hash.as_deref().unwrap_or(&NOBODYS);
            let is = PasswordHash::new(known)
                .is_ok_and(|known| Argon2::default().verify_password(password.as_bytes(), &known).is_ok());
            is && hash.is_some()
        })
        .await
    }

    #[expect(clippy::expect_used, reason = "the semaphore is never closed, and the work does not panic")]
    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _turn = self.0.acquire().await.expect("it is open");
        spawn_blocking(work).await.expect("it ends")
    }
}

#[expect(clippy::expect_used, reason = "the parameters are the crate's own, and any text is a password")]
fn hash(password: &str) -> String {
    Argon2::default().hash_password(password.as_bytes()).expect("argon2 takes it").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_its_own_hash_s_alone() {
        let passwords = Passwords::default();
        let known = passwords.hash("correct horse").await;
        assert!(known.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{known}");
        assert_ne!(known, passwords.hash("correct horse").await, "each has a salt");
        assert!(passwords.is("correct horse", Some(known.clone())).await);
        assert!(!passwords.is("correct horsf", Some(known)).await);
        assert!(!passwords.is("nobody has this password", None).await);
        assert!(!passwords.is("", Some("no hash".to_owned())).await);
    }
}
