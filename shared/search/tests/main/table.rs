//! Reads `refusals.md`.

use std::{collections::HashMap, fmt::Write};

use serde_json::{Value, json};

const TEXT: &str = include_str!("../refusals.md");

/// What the table calls OpenSearch.
pub const OPENSEARCH: &str = "opensearch";

/// One row of one of its tables.
#[derive(Clone, Debug)]
pub struct Row {
    pub case: String,
    /// Requests to Elasticsearch; or `wire`.
    pub made_by: Vec<String>,
    pub mended_by: Vec<String>,
    /// `None`: delete.
    pub document: Option<String>,
    pub key: Option<String>,
    pub version: Option<i64>,
    /// The servers that say so, where others say something else: `8` and `9` of Elasticsearch, `opensearch`.
    pub only_on: Vec<String>,
    pub answer: Answer,
    pub outcome: Outcome,
}

/// What Elasticsearch says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of the item, not of the whole request.
    pub is_of_item: bool,
    pub status: u16,
    pub result: Option<String>,
    /// `error.type`, and others below it.
    pub causes: Vec<String>,
    /// How `error.reason` begins, where that matters.
    pub sentence: Option<String>,
}

/// What becomes of the change.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The indexer's own `error_type`, where it does not even send the change.
    pub not_sent: Option<String>,
    /// What follows from the answer.
    pub decision: String,
    /// Of the dead letter, where that is not the answer's.
    pub error_type: Option<String>,
}

/// Settings and properties of the index that the documents are for.
pub fn index(server: &str) -> (Value, Value) {
    let (_, rest) = TEXT.split_once("```json").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let mut index: Value = serde_json::from_str(text).unwrap();
    if server == OPENSEARCH {
        index["properties"]["flat"] = json!({"type": "flat_object"});
        index["properties"].as_object_mut().unwrap().remove("vector");
    }
    (index["settings"].clone(), index["properties"].clone())
}

/// All rows of all tables, in their order.
pub fn rows() -> Vec<Row> {
    let mut columns = vec![];
    let mut rows = vec![];
    for line in TEXT.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells[0] == "case" {
            columns = cells;
            continue;
        }
        assert_eq!(cells.len(), columns.len(), "{line}");
        rows.push(row(&std::iter::zip(columns.iter().copied(), cells).collect()));
    }
    rows
}

fn row(cells: &HashMap<&str, &str>) -> Row {
    let cell = |name| cells.get(name).copied().unwrap_or_default();
    let code = |name| -> Vec<String> { cell(name).split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let change = expand(&code("change").concat());
    let (action, mut rest) = change.split_once(' ').unwrap_or((&change, ""));
    let (mut key, mut version) = (None, None);
    while let Some((fact, after)) = rest.split_once(' ').or((!rest.starts_with('{')).then_some((rest, ""))) {
        match fact.split_once('=') {
            Some(("key", text)) => key = Some(text.to_owned()),
            Some(("version", number)) => version = Some(number.parse().unwrap()),
            _ => break,
        }
        rest = after;
    }
    let document = match action {
        "index" => Some(rest.to_owned()),
        "delete" => None,
        _ => panic!("{change} is no change"),
    };
    let answer = cell("answer");
    let (only_on, answer) = match answer.strip_prefix("on ").and_then(|rest| rest.split_once(": ")) {
        Some((servers, answer)) => (servers.split(", ").map(str::to_owned).collect(), answer),
        None => (vec![], answer),
    };
    Row {
        case: cell("case").to_owned(),
        made_by: code("made by"),
        mended_by: code("mended by"),
        document,
        key,
        version,
        only_on,
        answer: Answer::parse(answer),
        outcome: Outcome::parse(cell("outcome")),
    }
}

/// `<ab#*3>` is `ab0ab1ab2`.
fn expand(text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        let (inner, behind) = after.split_once('>').unwrap();
        let (unit, count) = inner.rsplit_once('*').unwrap();
        expanded.push_str(before);
        for n in 0..count.parse().unwrap() {
            write!(expanded, "{}", unit.replace('#', &n.to_string())).unwrap();
        }
        rest = behind;
    }
    expanded + rest
}

impl Row {
    /// As this server says it; `None`: it says something else.
    pub fn on(mut self, server: &str) -> Option<Self> {
        if server == OPENSEARCH {
            for cause in self.answer.causes.iter_mut().filter(|cause| *cause == "document_parsing_exception") {
                *cause = "mapper_parsing_exception".to_owned();
            }
        }
        (self.only_on.is_empty() || self.only_on.iter().any(|only| only == server)).then_some(self)
    }

    pub fn is_at_the_wire(&self) -> bool {
        self.made_by == ["wire"]
    }
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (said, sentence) = match text.split_once(" \"") {
            Some((said, sentence)) => (said, Some(sentence.trim_end_matches('"').to_owned())),
            None => (text, None),
        };
        let mut words = said.splitn(3, ' ');
        let is_of_item = match words.next() {
            Some("item") => true,
            Some("request") => false,
            _ => panic!("{text} is no answer"),
        };
        let status = words.next().unwrap().parse().unwrap();
        let (result, causes) = match words.next() {
            Some(causes) if causes.ends_with("_exception") => (None, causes.split(" < ").map(str::to_owned).collect()),
            result => (result.map(str::to_owned), vec![]),
        };
        Self { is_of_item, status, result, causes, sentence }
    }

    /// As an item of an answer.
    pub fn to_item(&self, key: &str) -> Value {
        json!({"_id": key, "status": self.status, "result": self.result, "error": self.to_error()})
    }

    /// As the body of an answer to a request. Without a type: a proxy's.
    pub fn to_body(&self) -> String {
        match self.to_error() {
            Some(error) => json!({"error": error, "status": self.status}).to_string(),
            None => "<html>".to_owned(),
        }
    }

    fn to_error(&self) -> Option<Value> {
        let reason = self.sentence.as_deref().unwrap_or("because");
        self.causes
            .iter()
            .rfold(None, |below, error_type| Some(json!({"type": error_type, "reason": reason, "caused_by": below})))
    }

    /// Whether an error that Elasticsearch told is the one that is recorded.
    pub fn is_error(&self, error: &Value) -> bool {
        let mut told = std::iter::successors(Some(error), |cause| cause.get("caused_by")).map(|cause| &cause["type"]);
        let is_outermost = told.next().and_then(Value::as_str) == self.causes.first().map(String::as_str);
        let below: Vec<&Value> = told.collect();
        let sentence = error["reason"].as_str().unwrap_or_default();
        is_outermost
            && self.causes.iter().skip(1).all(|cause| below.contains(&&json!(cause)))
            && self.sentence.as_ref().is_none_or(|beginning| sentence.starts_with(beginning))
    }
}

impl Outcome {
    fn parse(text: &str) -> Self {
        let (not_sent, text) = match text.strip_prefix("not sent: ").and_then(|rest| rest.split_once(", else ")) {
            Some((error_type, rest)) => (Some(error_type.to_owned()), rest),
            None => (None, text),
        };
        let (decision, error_type) = match text.split_once(": ") {
            Some((decision, error_type)) => (decision, Some(error_type.to_owned())),
            None => (text, None),
        };
        Self { not_sent, decision: decision.to_owned(), error_type }
    }
}
