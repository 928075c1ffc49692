//! Log lines: one JSON object a line on stdout, where the runtime collects them.

use std::io::{self, IsTerminal as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{
        self, FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::trace::CHANGE;

const DEFAULT_LEVEL: Level = Level::INFO;
/// A library that has a line for each of its transactions. LOG_LEVEL may name it.
const TALKATIVE: &str = "krafka";

/// Starts logging for a function: JSON lines that begin with `service`, `version` and `commit`, from LOG_LEVEL (`info` when
/// it is absent) up.
///
/// LOG_LEVEL is a level or a list of `target=level`. One that cannot be read is reported and counts as absent: a typo in
/// it must not stop a function that works. Calling this again changes nothing.
pub fn init(service: &'static str) {
    init_in(service, &config::Env::from_process());
}

/// The same with variables from elsewhere; and as text for people by LOG_FORMAT=text, or on a terminal without LOG_FORMAT.
pub fn init_in(service: &'static str, env: &config::Env) {
    init_with(service, env, None);
}

/// The same with somebody who hears of traced changes, whatever the level is.
pub fn init_with(service: &'static str, env: &config::Env, spans: Option<Box<dyn Layer<Registry> + Send + Sync>>) {
    let wanted = env.optional("LOG_LEVEL");
    let parsed = wanted.as_deref().map(str::parse::<Targets>);
    let is_malformed = matches!(parsed, Some(Err(_)));
    let filter = quiet(parsed.and_then(Result::ok).unwrap_or_else(|| Targets::new().with_default(DEFAULT_LEVEL)));

    let is_text = match env.optional("LOG_FORMAT").as_deref() {
        None => io::stdout().is_terminal(),
        Some(format) => format == "text",
    };
    let changes = Targets::new().with_target(CHANGE, Level::INFO);
    let subscriber = tracing_subscriber::registry().with(spans.map(|spans| spans.with_filter(changes)));
    let started = if is_text {
        subscriber.with(fmt::layer().with_ansi(false).with_filter(filter)).try_init()
    } else {
        let json = fmt::layer().fmt_fields(JsonFields::new()).event_format(WithService::new(service, &env.commit()));
        subscriber.with(json.with_filter(filter)).try_init()
    };
    if started.is_ok() && is_malformed {
        tracing::warn!(default = %DEFAULT_LEVEL, "LOG_LEVEL cannot be read as a level, the default is used");
    }
}

fn quiet(filter: Targets) -> Targets {
    let is_named = filter.iter().any(|(target, _)| target == TALKATIVE);
    if is_named { filter } else { filter.with_target(TALKATIVE, Level::WARN) }
}

/// The JSON format with the function's name in each line, and which code it runs.
pub struct WithService {
    members: String,
    json: Format<Json>,
}

impl WithService {
    /// `service` is the word for the function everywhere else: folder, package, deployed name.
    pub fn new(service: &str, commit: &str) -> Self {
        let members = [("service", service), ("version", env!("CARGO_PKG_VERSION")), ("commit", commit)]
            .map(|(name, value)| format!("\"{name}\":{}", serde_json::Value::from(value)))
            .join(",");
        Self { members, json: Format::default().json().flatten_event(true).with_span_list(false) }
    }
}

impl<S, N> FormatEvent<S, N> for WithService
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut line = String::new();
        self.json.format_event(context, Writer::new(&mut line), event)?;
        // The line is an object that is never empty, so others fit in front.
        let rest = line.strip_prefix('{').ok_or(std::fmt::Error)?;
        write!(writer, "{{{},{rest}", self.members)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_list_gives_targets_levels_of_their_own_and_all_others_one() {
        let filter: Targets = "info,call=debug".parse().unwrap();
        assert!(filter.would_enable("call", &Level::DEBUG));
        assert!(filter.would_enable("indexer::alias", &Level::INFO));
        assert!(!filter.would_enable("indexer::alias", &Level::DEBUG));
        assert!("info,call=loud".parse::<Targets>().is_err());
    }

    #[test]
    fn a_talkative_library_is_heard_by_its_warnings_unless_it_is_named() {
        let would = |filter: &str| quiet(filter.parse().unwrap()).would_enable("krafka::producer", &Level::INFO);
        assert!(!would("info") && !would("debug,call=debug") && would("info,krafka=info"));
        assert!(quiet("info".parse().unwrap()).would_enable("krafka::producer", &Level::WARN));
    }

    #[test]
    fn a_log_line_is_json_with_the_service_its_code_the_fields_and_the_span() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(WithService::new("trigger", "1a2b3c4 \"mine\""))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("invocation", request_id = "r1").entered();
            tracing::info!(rows = 3, "drained");
        });

        let line = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["service"], "trigger");
        assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(line["commit"], "1a2b3c4 \"mine\"");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "drained");
        assert_eq!(line["rows"], 3);
        assert_eq!(line["span"]["request_id"], "r1");
    }
}
