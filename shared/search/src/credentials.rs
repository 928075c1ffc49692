use elasticsearch::{auth, http::Url};
use serde::Deserialize;

/// The secret: `{"url","api_key"}` or `{"url","username","password"}`, and perhaps `ca`, the PEM of an authority.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Credentials {
    url: String,
    api_key: Option<String>,
    username: Option<String>,
    password: Option<String>,
    ca: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Where to connect to.
    pub(crate) fn url(&self) -> Result<Url, String> {
        let url = Url::parse(&self.url).map_err(|error| format!("its url cannot be used ({error})"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("its url must look like https://host:9200".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("its url must not hold a username and password: they have fields of their own".to_owned());
        }
        Ok(url)
    }

    /// The authority that signed the server's certificate, where it is no public one.
    pub(crate) fn ca(&self) -> Option<&str> {
        self.ca.as_deref().filter(|pem| !pem.trim().is_empty())
    }

    /// As whom. `None`: an Elasticsearch without security.
    pub(crate) fn auth(&self) -> Result<Option<auth::Credentials>, String> {
        match (self.api_key.as_deref(), self.username.as_deref(), self.password.as_deref()) {
            (Some(key), None, None) if !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(Some(auth::Credentials::EncodedApiKey(key.to_owned())))
            }
            (Some(_), None, None) => Err("its api_key is not the encoded form that Elasticsearch gives".to_owned()),
            (None, Some(username), Some(password)) => {
                Ok(Some(auth::Credentials::Basic(username.to_owned(), password.to_owned())))
            }
            (None, None, None) => Ok(None),
            (Some(_), _, _) | (None, _, _) => Err("it needs either api_key, or both username and password".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn credentials(secret: Value) -> Credentials {
        serde_json::from_value(secret).unwrap()
    }

    #[test]
    fn a_key_or_a_password_or_nothing_is_taken() {
        for (secret, kind) in [
            (json!({"url": "https://es:9200", "api_key": "aWQ6a2V5"}), "key"),
            (json!({"url": "https://es:9200", "username": "u", "password": "p"}), "basic"),
            (json!({"url": "http://es:9200"}), "none"),
        ] {
            let found = match credentials(secret).auth().unwrap() {
                Some(auth::Credentials::EncodedApiKey(_)) => "key",
                Some(auth::Credentials::Basic(..)) => "basic",
                None => "none",
                Some(_) => "other",
            };
            assert_eq!(found, kind);
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_a_value() {
        for secret in [
            json!({"url": "u", "api_key": "s3cret\n"}),
            json!({"url": "u", "api_key": "s3cret", "username": "s3cret"}),
            json!({"url": "u", "username": "s3cret"}),
        ] {
            let told = credentials(secret).auth().unwrap_err();
            assert!(!told.contains("s3cret"), "{told}");
        }
        for url in ["", "s3cret", "ftp://s3cret", "https://s3cret:s3cret@es:9200"] {
            let told = credentials(json!({ "url": url })).url().unwrap_err();
            assert!(!told.contains("s3cret"), "{told}");
        }
    }
}
