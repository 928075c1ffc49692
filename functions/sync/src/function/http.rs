use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderValue, Request};
use lambda_http::Service as _;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::lambda_runtime::{FunctionResponse, MetadataPrelude, StreamResponse};
use lambda_http::request::LambdaRequest;
use serde_json::Value;

use super::Answer;

/// Answers a request of the function's URL. The answer is a stream: a buffered one has 6 MB at most, escaped or in base64, which neither a
/// snapshot keeps to nor a page of large documents.
pub async fn answer(router: &Router, event: Value) -> Result<Answer, serde_json::Error> {
    let event: ApiGatewayV2httpRequest = serde_json::from_value(event)?;
    // Lambda has found it out itself; what stands in headers anybody may write.
    let peer: Option<IpAddr> = event.request_context.http.source_ip.as_deref().and_then(|ip| ip.parse().ok());
    let request: Request<lambda_http::Body> = LambdaRequest::ApiGatewayV2(event).into();
    let mut request = request.map(Body::new);
    if let Some(ip) = peer {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(ip, 0)));
    }
    let Ok(response) = router.clone().call(request).await;
    let (parts, body) = response.into_parts();
    let headers = joined(&parts.headers);
    let metadata_prelude = MetadataPrelude { status_code: parts.status, headers, cookies: vec![] };
    Ok(FunctionResponse::StreamingResponse(StreamResponse { metadata_prelude, stream: body.into_data_stream() }))
}

/// Each name once, since Lambda takes one text for each. Of ours only lists come twice, as `vary` does, and no cookies.
fn joined(headers: &HeaderMap) -> HeaderMap {
    let mut joined = HeaderMap::new();
    for name in headers.keys() {
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(value) = HeaderValue::from_bytes(&values.join(&b", "[..])) {
            joined.insert(name.clone(), value);
        }
    }
    joined
}
