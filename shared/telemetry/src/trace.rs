//! Whose change it is: the trace that a writer or an invocation is in, and the calls made for it.

use std::{fmt, future::Future};

use tokio::time::Instant;
use tracing::{Instrument as _, Span, debug, debug_span, info, info_span};

/// So many changes of a batch have a line of their own in the log.
const TRACED_CHANGES: usize = 20;

/// How many more changes of a batch are told of by themselves, since their writer is in a trace.
///
/// Anybody who may write to a tracked table may say so of all of their changes, and somebody else pays for the lines.
#[derive(Debug)]
pub struct TracedChanges {
    left: usize,
}

impl Default for TracedChanges {
    fn default() -> Self {
        Self { left: TRACED_CHANGES }
    }
}

impl TracedChanges {
    /// Whether one more may be told of.
    pub fn take(&mut self) -> bool {
        let is_any_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_any_left
    }
}

/// The target of the log's lines about traced changes.
pub const CHANGE: &str = "change";

/// Tells that a change was sent, or given to a direct target; `began_ms`: when it was logged, in milliseconds since 1970.
pub fn tell_sent(trace: &Trace, stream: &str, change_id: i64, began_ms: i64) {
    let (trace_id, traceparent) = (trace.id(), trace.as_str());
    info!(target: CHANGE, trace_id, traceparent, stream, change_id, began_ms, "a traced change is sent");
}

/// Tells what became of it; `began_ms`: when its document was read.
pub fn tell_landed(trace: &Trace, stream: &str, change_id: i64, outcome: &str, began_ms: i64, latency_ms: Option<i64>) {
    let (trace_id, traceparent) = (trace.id(), trace.as_str());
    info!(target: CHANGE, trace_id, traceparent, stream, change_id, outcome, began_ms, latency_ms, "a traced change has landed");
}

/// A place in a trace, as W3C's Trace Context writes it: `00-{trace id}-{parent id}-{flags}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    text: String,
}

impl Trace {
    /// `None`: it is none, and whoever wrote it is in no trace.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let &[version, trace_id, parent_id, flags] = parts.as_slice() else { return None };
        let is_hex = |part: &str, digits| {
            part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |part: &str, digits| is_hex(part, digits) && part.bytes().any(|byte| byte != b'0');
        let is_valid = is_hex(version, 2) && version != "ff" && is_hex(flags, 2);
        (is_valid && is_id(trace_id, 32) && is_id(parent_id, 16)).then(|| Self { text: text.to_owned() })
    }

    /// Of an invocation: the one that X-Ray gave it (`Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;
    /// Sampled=1`), so that both speak of the same, or a new one.
    pub fn of_invocation(xray: Option<&str>) -> Self {
        xray.and_then(Self::parse_xray).unwrap_or_else(|| {
            let (trace_id, parent_id) = (fastrand::u128(1..), fastrand::u64(1..));
            Self { text: format!("00-{trace_id:032x}-{parent_id:016x}-00") }
        })
    }

    fn parse_xray(header: &str) -> Option<Self> {
        let field = |name: &str| {
            header.split(';').filter_map(|field| field.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
        };
        let trace_id = field("Root")?.strip_prefix("1-")?.replace('-', "");
        let flags = if field("Sampled") == Some("1") { "01" } else { "00" };
        Self::parse(&format!("00-{trace_id}-{}-{flags}", field("Parent")?))
    }

    /// As it travels.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What all of one trace have in common.
    pub fn id(&self) -> &str {
        &self.text[3..35]
    }

    /// The span that it is below.
    pub fn parent_id(&self) -> &str {
        &self.text[36..52]
    }

    /// Whether who began it wants to see it.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(&self.text[53..55], 16).is_ok_and(|flags| flags & 1 == 1)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The span of an invocation, whose fields are in each of its log lines.
pub fn invocation(request_id: &str, trace: &Trace) -> Span {
    info_span!("invocation", request_id, trace_id = trace.id())
}

/// Makes a remote call in a span of its own. `LOG_LEVEL=info,call=debug` tells each of them, and how long it took.
pub async fn call<T>(peer: &'static str, request: &'static str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    // Boxed: the compiler gives up on the layout of futures that are nested so deeply.
    let outcome = Box::pin(work).instrument(debug_span!(target: "call", "call", peer, request)).await;
    let duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    debug!(target: "call", peer, request, duration_us, "called");
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_what_w3c_says() {
        let trace = Trace::parse(TEXT).unwrap();
        assert_eq!((trace.as_str(), trace.id()), (TEXT, "4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(trace.parent_id(), "00f067aa0ba902b7");
        assert!(trace.is_sampled());
        assert!(!Trace::parse(&TEXT.replace("-01", "-02")).unwrap().is_sampled());
        for text in [
            "",
            "t-1",
            &TEXT[1..],
            &TEXT.to_uppercase(),
            &TEXT.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            &format!("{TEXT}-x"),
        ] {
            assert_eq!(Trace::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_invocation_is_in_the_trace_of_x_ray_or_in_one_of_its_own() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=1:fc3b4ff1:0";
        let text = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
        assert_eq!(Trace::of_invocation(Some(header)).as_str(), text);
        for header in [None, Some("Root=1-5759e988-bd862e3fe1be46a994272793"), Some("nonsense")] {
            let trace = Trace::of_invocation(header);
            assert_eq!(Trace::parse(trace.as_str()), Some(trace.clone()));
            assert_ne!(trace, Trace::of_invocation(header));
        }
    }

    #[test]
    fn only_so_many_changes_of_a_batch_are_told_of_by_themselves() {
        let mut traced = TracedChanges::default();
        assert_eq!((0..100_000).filter(|_| traced.take()).count(), TRACED_CHANGES);
    }
}
