//! AWS Signature Version 4, by which Amazon OpenSearch Service knows whose a request is.

use std::io;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use elasticsearch::http::headers::{HeaderMap, HeaderName, HeaderValue};
use secrets::Iam;

/// How the service is called in a signature.
const SERVICE: &str = "es";

/// Signs requests by AWS's own credentials of this process.
#[derive(Clone, Debug)]
pub(crate) struct Signer(pub Iam);

impl Signer {
    /// The headers that a request is sent with besides. They hold for this URL and body alone, and for some minutes.
    pub(crate) async fn sign(&self, method: &str, url: &str, body: &[u8]) -> Result<HeaderMap, elasticsearch::Error> {
        let credentials = self.0.credentials().await.map_err(io::Error::other)?;
        let region = self.0.region().map_err(io::Error::other)?;
        let scope = Scope { region, service: SERVICE, time: SystemTime::now() };
        Ok(headers(method, url, body, credentials, &scope).map_err(io::Error::other)?)
    }
}

/// What a signature holds for.
struct Scope<'a> {
    region: &'a str,
    service: &'a str,
    time: SystemTime,
}

/// Host, URL and body are signed. Other headers are not: they change nothing of what is asked for.
fn headers(
    method: &str,
    url: &str,
    body: &[u8],
    credentials: Credentials,
    scope: &Scope<'_>,
) -> Result<HeaderMap, Box<dyn std::error::Error + Send + Sync>> {
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(scope.time)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let request = SignableRequest::new(method, url, std::iter::empty(), SignableBody::Bytes(body))?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    let mut headers = HeaderMap::new();
    for (name, value) in instructions.headers() {
        let mut value = HeaderValue::from_str(value)?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Of AWS's own test suite, github.com/awslabs/aws-c-auth, tests/aws-signing-test-suite/v4: the name of each case, its
    /// request, and its signature in the headers.
    const CASES: [(&str, &str, &str, &str); 6] = [
        ("get-vanilla", "GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-vanilla-query-unreserved",
            "GET",
            "/?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
        (
            "get-unreserved",
            "GET",
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        ("post-vanilla", "POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "post-vanilla-query",
            "POST",
            "/?Param1=value1",
            "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        ),
    ];
    /// The case `post-sts-header-before`, of credentials that end.
    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
    const OF_TOKEN: &str = "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead";

    fn authorization(method: &str, path: &str, token: Option<&str>) -> String {
        let key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIDEXAMPLE", key, token.map(str::to_owned), None, "test");
        // 2015-08-30T12:36:00Z
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let scope = Scope { region: "us-east-1", service: "service", time };
        let url = format!("https://example.amazonaws.com{path}");
        let headers = headers(method, &url, b"", credentials, &scope).unwrap();
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
        assert_eq!(headers.get("x-amz-security-token").map(HeaderValue::as_bytes), token.map(str::as_bytes));
        headers["authorization"].to_str().unwrap().to_owned()
    }

    #[test]
    fn requests_of_the_published_suite_have_its_signatures() {
        let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request";
        for (case, method, path, signature) in CASES {
            let expected = format!("{scope}, SignedHeaders=host;x-amz-date, Signature={signature}");
            assert_eq!(authorization(method, path, None), expected, "{case}");
        }
        let expected = format!("{scope}, SignedHeaders=host;x-amz-date;x-amz-security-token, Signature={OF_TOKEN}");
        assert_eq!(authorization("POST", "/", Some(TOKEN)), expected, "post-sts-header-before");
    }
}
