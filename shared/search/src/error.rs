use std::{error::Error, io};

use secrets::SecretError;

/// Why there is no Elasticsearch to talk to. Each variant is a remedy of its own.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The secret was read and cannot be used.
    #[error("the secret {secret_arn} does not say how to reach Elasticsearch: {problem}")]
    Credentials {
        /// The secret's ARN, as configured.
        secret_arn: String,
        /// What is wrong, without any of the content.
        problem: String,
    },
    /// The client could not be made with this authority.
    #[error("ELASTICSEARCH_CA cannot be used as an authority")]
    Authority(#[source] elasticsearch::Error),
    /// The server's certificate is not by an authority that we trust, or not for this name.
    #[error(
        "the certificate of Elasticsearch at {url} is refused: {problem}; put the PEM of its authority \
             into the secret, as its field `ca`"
    )]
    Certificate {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        problem: String,
        /// The cause.
        #[source]
        source: elasticsearch::Error,
    },
    /// Nobody answers there.
    #[error("Elasticsearch at {url} cannot be reached: {reason}; check the secret's url and the network")]
    Unreachable {
        /// What was asked.
        url: String,
        /// The cause in one line.
        reason: String,
        /// The cause.
        #[source]
        source: elasticsearch::Error,
    },
    /// The password or the key is wrong, with the secret as it is now.
    #[error("Elasticsearch at {url} refuses the credentials (401): correct those in the secret {secret_arn}")]
    Refused {
        /// What was asked.
        url: String,
        /// The secret that was looked up anew before this was said.
        secret_arn: String,
    },
    /// It answers, and not as Elasticsearch does for somebody who may use it.
    #[error("Elasticsearch at {url} answers with status {status}: {reason}")]
    Unexpected {
        /// What was asked.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// The beginning of the answer.
        reason: String,
    },
}

impl ConnectError {
    pub(crate) fn of(url: &str, source: elasticsearch::Error) -> Self {
        let url = url.to_owned();
        match untrusted_certificate(&source) {
            Some(problem) => Self::Certificate { url, problem, source },
            None => Self::Unreachable { url, reason: describe(&source), source },
        }
    }
}

/// What is wrong with the server's certificate, where that is why a request failed.
pub fn untrusted_certificate(error: &elasticsearch::Error) -> Option<String> {
    causes(error).find_map(|cause| match unwrap_io(cause).downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(problem)) => Some(problem.to_string()),
        _ => None,
    })
}

/// What an I/O error was made of: it is no `source` of it, and may be an I/O error again.
fn unwrap_io<'a>(cause: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => unwrap_io(inner),
        None => cause,
    }
}

/// What kept a request from being answered, in one line, down to the first cause.
pub fn describe(error: &elasticsearch::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        // A wrapper often repeats what it wraps.
        if told.last().is_none_or(|last| !last.contains(&cause)) {
            told.push(cause);
        }
    }
    told.join(": ")
}

fn causes<'a>(error: &'a elasticsearch::Error) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source())
}
