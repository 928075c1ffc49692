use mongodb::error::ErrorKind;
use secrets::SecretError;
use thiserror::Error;

/// The stream cannot go on: its place is not in the oplog any more (ChangeStreamHistoryLost), an event is broken for good
/// (ChangeStreamFatalError), or the token is of another collection or server (InvalidResumeToken, and what is said of one that was
/// not found).
const LOST: [i32; 4] = [286, 280, 260, 136];
/// Unauthorized, AuthenticationFailed, and what Atlas says.
const UNAUTHORIZED: [i32; 3] = [13, 18, 8000];
/// There is no oplog.
const ALONE: [i32; 2] = [40573, 20];
/// BSONObjectTooLarge.
const TOO_LARGE: i32 = 10334;

/// What keeps a collection from being read. No text has a URL, a credential or a part of a document: what servers say may have
/// them, and is not repeated.
#[derive(Debug, Error)]
pub enum Error {
    /// The credentials cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The URL is none.
    #[error(
        "its url, or that of its secret, is no connection string: it must be like mongodb+srv://user:password@host, and the secret like {{\"url\": \"…\"}}"
    )]
    Url,
    /// This function has nothing to find servers by SRV records with.
    #[error(
        "the function finds no servers by mongodb+srv://: give it the hosts, mongodb://user:password@host1,host2/?replicaSet=…&tls=true, as Atlas gives them for older drivers"
    )]
    Srv,
    /// No server was found by the URL's name.
    #[error("the name of its url has no servers in the DNS: check its url and the network")]
    Name,
    /// The credentials would be sent where anybody reads along.
    #[error("its url has credentials and no TLS, and anybody on the way could read what is sent: add tls=true to it")]
    InTheClear,
    /// The authority cannot be used.
    #[error("the authority of its secret cannot be used: ca must have certificates in PEM")]
    Authority,
    /// It does not let us in.
    #[error(
        "MongoDB refuses our credentials, or they may not read the collection: correct the secret of the definition, and give its user the role read on the database"
    )]
    Unauthorized,
    /// It has no change streams.
    #[error(
        "MongoDB has no change streams here, since it is no replica set and no sharded cluster: start it with --replSet, and initiate it"
    )]
    Alone,
    /// Nobody answers.
    #[error(
        "no server of MongoDB answers ({reason}): check its url, its TLS, the name of its replica set and the network"
    )]
    Away {
        /// In a word or two.
        reason: String,
    },
    /// It did not answer in time.
    #[error(
        "MongoDB gave no answer in time: see what it is busy with, and whether the collection has its index on _id"
    )]
    Silent,
    /// What happened in the meantime is not known any more.
    #[error(
        "what changed in the collection since it was last read is not in MongoDB's oplog any more (code {code}): SELECT sluice.resync_ingest(…) copies it anew, and a larger oplog keeps this from happening again"
    )]
    Lost {
        /// As the server said.
        code: i32,
    },
    /// The collection is not what it was.
    #[error(
        "the collection was {how}, and its rows stay as they are: SELECT sluice.resync_ingest(…) copies what is there now, and deletes the others; or define the ingest for another collection, or drop it"
    )]
    Ended {
        /// `dropped`, `renamed`, or `dropped with its database`.
        how: &'static str,
    },
    /// One document with what is said of it is too large for the server.
    #[error(
        "a change is larger than the 16 MiB that MongoDB sends: make its document smaller, then SELECT sluice.resync_ingest(…)"
    )]
    TooLarge,
    /// Anything else that the server says.
    #[error("MongoDB refuses with code {code} ({name}): look it up in its list of errors, and in its log")]
    Refused {
        /// Of its answer.
        code: i32,
        /// Of its answer.
        name: String,
    },
    /// The driver gives up.
    #[error(
        "the driver of MongoDB does not understand an answer: see the servers' version, which must be 4.4 or newer"
    )]
    Answer,
}

impl From<mongodb::error::Error> for Error {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what else there is, and will be, is told in one way")]
    fn from(error: mongodb::error::Error) -> Self {
        match &*error.kind {
            ErrorKind::Command(said) if LOST.contains(&said.code) => Self::Lost { code: said.code },
            ErrorKind::Command(said) if UNAUTHORIZED.contains(&said.code) => Self::Unauthorized,
            ErrorKind::Command(said) if ALONE.contains(&said.code) => Self::Alone,
            ErrorKind::Command(said) if said.code == TOO_LARGE => Self::TooLarge,
            ErrorKind::Command(said) => Self::Refused { code: said.code, name: said.code_name.clone() },
            ErrorKind::Authentication { .. } => Self::Unauthorized,
            ErrorKind::Io(error) => Self::Away { reason: error.kind().to_string() },
            ErrorKind::ServerSelection { message, .. } => Self::Away { reason: reason(message) },
            ErrorKind::ConnectionPoolCleared { .. } => Self::Away { reason: "a connection was lost".to_owned() },
            ErrorKind::DnsResolve { .. } => Self::Name,
            ErrorKind::InvalidTlsConfig { .. } => Self::Authority,
            ErrorKind::MissingResumeToken => Self::Lost { code: 0 },
            _ => Self::Answer,
        }
    }
}

impl Error {
    /// Why a connection string is of no use.
    pub(super) fn of_url(error: &mongodb::error::Error) -> Self {
        if matches!(&*error.kind, ErrorKind::DnsResolve { .. }) { Self::Name } else { Self::Url }
    }
}

/// Of what the driver says of all the servers that it knows, what is known to say nothing of who they are.
fn reason(message: &str) -> String {
    let known = [
        ("SCRAM", "the credentials are refused"),
        ("Authentication", "the credentials are refused"),
        ("certificate", "its certificate is not one that is trusted"),
        ("Connection refused", "connection refused"),
        ("failed to lookup address", "its host is unknown"),
        ("timed out", "timed out"),
        ("replica set", "it is of another replica set"),
        ("wire version", "its version is older than 4.4"),
    ];
    let found = known.iter().find(|(word, _)| message.contains(word));
    found.map_or("no server is available", |(_, reason)| reason).to_owned()
}
