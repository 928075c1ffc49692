//! What holds for each look-up of credentials, whoever gives them.

use std::time::Duration;

/// How long a credential serves before it is looked up again. A refused one is looked up at once, by `refresh`.
pub(crate) const TIME_TO_LIVE: Duration = Duration::from_secs(300);
/// How long what should be renewed serves on before it is asked for again, when nobody answered.
pub(crate) const ASK_AGAIN_AFTER: Duration = Duration::from_secs(15);
/// A lookup takes milliseconds, and others wait for its end.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a credential cannot be had. Names the secret and the remedy, never a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It was not given: it does not exist, may not be read, or nobody answers.
    #[error("the secret {arn} cannot be read: {reason}")]
    Unreadable {
        /// The secret's ARN, or its file, as configured.
        arn: String,
        /// What was answered, and what to check.
        reason: String,
        /// Secrets Manager itself refuses it, which it would do the next time, too; else it may pass.
        is_refused: bool,
    },
    /// It is there, and is not what it should be.
    #[error("the secret {arn} has the wrong form: {problem}; put a value of the documented form into it")]
    Malformed {
        /// The secret's ARN, its file, or the variable that gives it.
        arn: String,
        /// What is wrong, without any of the content.
        problem: String,
    },
    /// Requests are to be signed by AWS's own credentials, and there are none.
    #[error("AWS gives no credentials to sign with: {reason}")]
    Iam {
        /// What was looked for.
        reason: String,
    },
}
