//! Spans of traced changes, for whoever collects them by OTLP: JSON over HTTP, as version 1 of the protocol has it.
//!
//! The functions tell of a change whose writer is in a sampled trace by two lines of the log ([`telemetry::tell_sent`],
//! [`telemetry::tell_landed`]). Each becomes a span here, below the writer's own. They are sent from beside: nobody waits for a
//! collector, and what one that is away does not take is dropped, and counted.

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::Env;
use reqwest::Client;
use serde_json::{Value, json};
use telemetry::Trace;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, debug, warn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::{Layer, Registry};

/// Spans that wait to be sent, and those of one request.
const WAITING: usize = 2048;
const REQUEST: usize = 512;
/// Between two requests.
const PACE: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of the protocol: a step within one process, what is sent to a queue, what is received from there.
const PRODUCER: u8 = 4;
const CONSUMER: u8 = 5;

/// For the log: hears of traced changes.
pub type Spans = Box<dyn Layer<Registry> + Send + Sync>;

/// By `OTEL_EXPORTER_OTLP_ENDPOINT`, with `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_SERVICE_NAME`: what hears, and what sends what was
/// heard. `None`: nobody collects. What is wrong is noted in `env`.
pub fn from_env(service: &str, env: &mut Env) -> Option<(Spans, Exporter)> {
    let endpoint = env.optional("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        env.problem("OTEL_EXPORTER_OTLP_ENDPOINT must be a URL, as in http://collector:4318");
        return None;
    }
    let given = env.optional("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
    let mut headers = vec![];
    for header in given.split(',').map(str::trim).filter(|header| !header.is_empty()) {
        match header.split_once('=') {
            Some((name, value)) => headers.push((name.trim().to_owned(), value.trim().to_owned())),
            None => env.problem("OTEL_EXPORTER_OTLP_HEADERS must be a list, as in name=value,name=value"),
        }
    }
    let (heard, waiting) = channel(WAITING);
    let exporter = Exporter {
        url: format!("{}/v1/traces", endpoint.trim_end_matches('/')),
        headers,
        service: env.optional("OTEL_SERVICE_NAME").unwrap_or_else(|| service.to_owned()),
        waiting,
    };
    Some((Box::new(Hearing { heard }), exporter))
}

/// Turns lines about traced changes into spans.
struct Hearing {
    heard: Sender<Value>,
}

impl<S: Subscriber> Layer<S> for Hearing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != telemetry::CHANGE {
            return;
        }
        let mut told = Told::default();
        event.record(&mut told);
        if let Some(span) = told.span(SystemTime::now()) {
            // Full: whoever collects is too slow, or away, and was warned of.
            let _ = self.heard.try_send(span);
        }
    }
}

/// What a line says.
#[derive(Default)]
struct Told {
    traceparent: String,
    began_ms: i64,
    outcome: Option<String>,
    attributes: Vec<Value>,
}

impl Told {
    /// As OTLP has it; `None`: the line is of no trace.
    fn span(self, now: SystemTime) -> Option<Value> {
        let trace = Trace::parse(&self.traceparent)?;
        let (name, kind) = match self.outcome {
            Some(_) => ("deliver", CONSUMER),
            None => ("drain", PRODUCER),
        };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let began = u128::try_from(self.began_ms).unwrap_or_default() * 1_000_000;
        Some(json!({
            "traceId": trace.id(),
            "parentSpanId": trace.parent_id(),
            "spanId": format!("{:016x}", fastrand::u64(1..)),
            "name": name,
            "kind": kind,
            // The clocks of two machines: a span that ends before it begins is none.
            "startTimeUnixNano": began.min(now).to_string(),
            "endTimeUnixNano": now.to_string(),
            "attributes": self.attributes,
        }))
    }

    fn note(&mut self, name: &str, value: &Value) {
        self.attributes.push(json!({"key": format!("sluice.{name}"), "value": value}));
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "traceparent" => value.clone_into(&mut self.traceparent),
            "trace_id" | "message" => {}
            name => {
                if name == "outcome" {
                    self.outcome = Some(value.to_owned());
                }
                self.note(name, &json!({"stringValue": value}));
            }
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "began_ms" => self.began_ms = value,
            // Of 64 bits: as text, as JSON has them in the protocol.
            name => self.note(name, &json!({"intValue": value.to_string()})),
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

/// Sends spans to whoever collects them.
pub struct Exporter {
    url: String,
    headers: Vec<(String, String)>,
    service: String,
    waiting: Receiver<Value>,
}

impl Exporter {
    /// Sends what was heard, once a second, for as long as it is polled and anybody hears.
    pub async fn run(mut self) {
        // It is told of when it begins, and when it is over: not each second.
        let mut is_away = false;
        let mut dropped: u64 = 0;
        // Proxies come from the environment, which is not read here.
        let Ok(client) = Client::builder().no_proxy().timeout(TIMEOUT).build() else {
            return warn!("spans cannot be sent: there is no client");
        };
        let mut spans = vec![];
        while self.waiting.recv_many(&mut spans, REQUEST).await > 0 {
            let count = spans.len();
            match self.send(&client, std::mem::take(&mut spans)).await {
                Ok(()) => {
                    if is_away {
                        warn!(dropped, "spans are taken again");
                    }
                    (is_away, dropped) = (false, 0);
                    debug!(spans = count, "sent spans");
                }
                Err(problem) => {
                    if !is_away {
                        warn!(problem, "spans are not taken, and dropped");
                    }
                    is_away = true;
                    dropped += count as u64;
                }
            }
            sleep(PACE).await;
        }
    }

    async fn send(&self, client: &Client, spans: Vec<Value>) -> Result<(), String> {
        let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": self.service}}]});
        let scopes = json!([{"scope": {"name": "sluice", "version": env!("CARGO_PKG_VERSION")}, "spans": spans}]);
        let body = json!({"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]});
        let mut request = client.post(&self.url).json(&body);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("the collector answered {}", answer.status())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_line_is_a_span_below_its_writers_that_never_ends_before_it_begins() {
        let told = || Told { traceparent: TEXT.to_owned(), began_ms: 1_000, ..Told::default() };
        let span = told().span(UNIX_EPOCH + Duration::from_millis(1_250)).unwrap();
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!((&span["name"], &span["startTimeUnixNano"]), (&json!("drain"), &json!("1000000000")));
        assert_eq!(span["endTimeUnixNano"], "1250000000");
        let behind = told().span(UNIX_EPOCH + Duration::from_millis(900)).unwrap();
        assert_eq!(behind["startTimeUnixNano"], behind["endTimeUnixNano"]);
        let landed = Told { outcome: Some("written".to_owned()), ..told() };
        assert_eq!(landed.span(SystemTime::now()).unwrap()["name"], "deliver");
        assert!(Told::default().span(SystemTime::now()).is_none());
    }

    #[test]
    fn what_is_wrong_with_the_endpoint_is_told_by_name() {
        let mut env = Env::from_pairs([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
        ]);
        assert!(from_env("sluice", &mut env).is_some());
        let told = env.finish().unwrap_err().to_string();
        assert!(told.contains("OTEL_EXPORTER_OTLP_HEADERS") && !told.contains("s3cret"), "{told}");
        let mut env = Env::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]);
        assert!(from_env("sluice", &mut env).is_none() && env.finish().is_err());
        assert!(from_env("sluice", &mut Env::from_pairs::<&str, &str>([])).is_none());
    }
}
