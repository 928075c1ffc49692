use krafka::KrafkaError;
use krafka::auth::{AuthConfig, AwsMskIamCredentials, TlsConfig};
use secrets::Iam;
use serde::Deserialize;

/// The secret: `{"username","password","mechanism"}`, or `{"mechanism":"AWS_MSK_IAM"}`, or only how to encrypt; perhaps with `ca`,
/// the PEM of an authority, and `"tls": false`, where the network is trusted.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Credentials {
    username: Option<String>,
    password: Option<String>,
    mechanism: Option<String>,
    ca: Option<String>,
    tls: Option<bool>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// How to connect. The error says what is wrong, without any of the content.
    pub(crate) fn auth(&self, iam: &Iam) -> Result<AuthConfig, String> {
        let login = match (self.username.clone(), self.password.clone()) {
            (Some(username), Some(password)) if !username.is_empty() && !password.is_empty() => {
                Some((username, password))
            }
            (None, None) => None,
            _ => return Err("it needs both username and password, or none of them".to_owned()),
        };
        let auth = match (self.mechanism.as_deref(), login) {
            (Some("PLAIN"), Some((username, password))) => AuthConfig::sasl_plain(username, password),
            (Some("SCRAM-SHA-256"), Some((username, password))) => AuthConfig::sasl_scram_sha256(username, password),
            // Also what a secret of MSK means, which names none.
            (Some("SCRAM-SHA-512") | None, Some((username, password))) => {
                AuthConfig::sasl_scram_sha512(username, password)
            }
            (Some("AWS_MSK_IAM"), None) => iam_auth(iam)?,
            (None, None) => AuthConfig::plaintext(),
            (Some("AWS_MSK_IAM"), Some(_)) => {
                return Err("its mechanism AWS_MSK_IAM needs no username and password".to_owned());
            }
            (Some("PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512"), None) => {
                return Err("its mechanism needs username and password".to_owned());
            }
            (Some(_), _) => {
                return Err("its mechanism must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or AWS_MSK_IAM".to_owned());
            }
        };
        let ca = self.ca.as_deref().filter(|pem| !pem.trim().is_empty());
        match (self.tls, ca) {
            (Some(false), Some(_)) => Err("it has a ca, and its tls is false".to_owned()),
            (Some(false), None) if auth.requires_tls() => {
                Err("its mechanism needs TLS, and its tls is false".to_owned())
            }
            (Some(false), None) => Ok(auth),
            (_, Some(pem)) => Ok(auth.with_tls(TlsConfig::new().with_ca_cert_pem(pem))),
            (_, None) => Ok(auth.with_tls(TlsConfig::new())),
        }
    }
}

/// Signed anew for each connection, as the credentials of the function's role change.
fn iam_auth(iam: &Iam) -> Result<AuthConfig, String> {
    let region = iam.region().map_err(|error| error.to_string())?.to_owned();
    let iam = iam.clone();
    Ok(AuthConfig::aws_msk_iam_provider(move || {
        let (iam, region) = (iam.clone(), region.clone());
        async move {
            let found = iam
                .credentials()
                .await
                .map_err(|error| KrafkaError::auth_with_source("AWS gives no credentials", error))?;
            let signed = AwsMskIamCredentials::new(found.access_key_id(), found.secret_access_key(), region);
            Ok(match found.session_token() {
                Some(token) => signed.with_session_token(token),
                None => signed,
            })
        }
    }))
}

#[cfg(test)]
mod tests {
    use aws_config::{Region, SdkConfig};
    use aws_credential_types::Credentials as Keys;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use krafka::auth::{SaslMechanism, SecurityProtocol};
    use serde_json::{Value, json};

    use super::*;

    fn iam() -> Iam {
        let provider = SharedCredentialsProvider::new(Keys::new("key", "s3cret", None, None, "test"));
        let aws = SdkConfig::builder().region(Region::new("eu-central-1")).credentials_provider(provider);
        Iam::new(&aws.build())
    }

    fn auth(secret: Value) -> Result<AuthConfig, String> {
        serde_json::from_value::<Credentials>(secret).unwrap().auth(&iam())
    }

    #[test]
    fn each_mechanism_is_taken_and_encrypted_unless_the_secret_says_otherwise() {
        use SaslMechanism::{AwsMskIam, Plain, ScramSha256, ScramSha512};
        use SecurityProtocol::{Plaintext, SaslPlaintext, SaslSsl, Ssl};
        let login = |mechanism: &str| json!({"username": "u", "password": "p", "mechanism": mechanism});
        for (secret, mechanism, protocol) in [
            (login("PLAIN"), Some(Plain), SaslSsl),
            (login("SCRAM-SHA-256"), Some(ScramSha256), SaslSsl),
            (login("SCRAM-SHA-512"), Some(ScramSha512), SaslSsl),
            (json!({"username": "u", "password": "p"}), Some(ScramSha512), SaslSsl),
            (json!({"username": "u", "password": "p", "tls": false}), Some(ScramSha512), SaslPlaintext),
            (json!({"mechanism": "AWS_MSK_IAM"}), Some(AwsMskIam), SaslSsl),
            (json!({}), None, Ssl),
            (json!({"tls": false}), None, Plaintext),
        ] {
            let auth = auth(secret.clone()).unwrap();
            assert_eq!((auth.sasl_mechanism(), auth.security_protocol()), (mechanism.as_ref(), &protocol), "{secret}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_a_value() {
        for secret in [
            json!({"username": "s3cret"}),
            json!({"username": "s3cret", "password": ""}),
            json!({"username": "u", "password": "s3cret", "mechanism": "s3cret"}),
            json!({"username": "u", "password": "s3cret", "mechanism": "AWS_MSK_IAM"}),
            json!({"mechanism": "PLAIN"}),
            json!({"mechanism": "AWS_MSK_IAM", "tls": false}),
            json!({"ca": "s3cret", "tls": false}),
        ] {
            let told = auth(secret.clone()).unwrap_err();
            assert!(!told.contains("s3cret"), "{secret}: {told}");
        }
        let secret: Credentials = serde_json::from_value(json!({"mechanism": "AWS_MSK_IAM"})).unwrap();
        assert!(secret.auth(&Iam::default()).unwrap_err().contains("there is no region"));
        assert!(
            !format!("{:?}", serde_json::from_value::<Credentials>(json!({"password": "s3cret"})).unwrap())
                .contains("s3cret")
        );
    }
}
