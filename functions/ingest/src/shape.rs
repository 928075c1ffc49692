//! What an item must be: the columns that its fields fill, and their rules.

use std::borrow::Cow;

use database::ingest::definition::{Deletes, Table};
use email_address::{EmailAddress, Options};
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, UtcOffset};
use uuid::Uuid;

use crate::Error;
use crate::pointer::Pointers;

/// A source's clock may be ahead of ours, by another time zone that somebody mistook for UTC at the most.
const FAR_FUTURE: Duration = Duration::days(1);
/// A number of seconds since 1970 is smaller than this until the year 5138: from here on they are milliseconds.
const MILLISECONDS: f64 = 1e11;
/// What no index takes is no key.
pub(crate) const KEY_BYTES: usize = 512;
/// An item is some hundred bytes. What is kept of one that is not stored has no more in any case.
pub(crate) const ITEM_BYTES: usize = 64 << 10;
/// More digits than anybody means.
const NUMBER_BYTES: usize = 200;

/// How items of a source are read.
#[derive(Debug)]
pub struct Shape {
    /// Of each column, and behind those of what says that an item is gone.
    pub(crate) fields: Pointers,
    /// The values that say so; `None`: nothing does.
    deletes: Option<Vec<Value>>,
    /// An item with more is a reject.
    pub(crate) item_bytes: usize,
    pub(crate) columns: Vec<Column>,
    /// Which of the columns is the key.
    pub(crate) key: usize,
    /// Which of them says how new an item is.
    pub(crate) newer: usize,
    /// Those in which no two rows have the same, without the key.
    pub(crate) unique: Vec<usize>,
}

/// A column, and what it takes.
#[derive(Debug)]
pub struct Column {
    /// Also the reason of what it refuses.
    pub(crate) name: String,
    /// The reason where another has what must be unique.
    pub(crate) taken: String,
    takes: Takes,
    is_required: bool,
    rules: Vec<Rule>,
}

/// A type, as far as PostgreSQL would refuse a value of it.
#[derive(Debug)]
enum Takes {
    Text { limit: Option<usize> },
    Bool,
    Integer { min: i64, max: i64 },
    Number,
    Uuid,
    Date,
    Time,
    Json,
    Label(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Required,
    Email,
    Phone,
    Uuid,
    OneOf(Vec<String>),
    Range(Option<f64>, Option<f64>),
    #[serde(deserialize_with = "pattern")]
    Pattern(Regex),
    NotFuture,
    Unique,
}

/// Why a column does not take a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `None`: the column's name.
    pub reason: Option<&'static str>,
    /// The rest of a sentence that begins with the column's name.
    pub must: Cow<'static, str>,
}

impl Shape {
    /// As it was defined.
    ///
    /// # Errors
    /// A column is gone, or this code does not know its type or a rule.
    pub fn new(table: &Table, deletes: Option<&Deletes>, item_bytes: usize) -> Result<Self, Error> {
        let unusable = |reason: String| Error::Definition { reason };
        let columns = table.columns.iter().map(|column| {
            let takes = takes(column)
                .ok_or_else(|| unusable(format!("the column {} is gone or has another type", column.name)))?;
            let rule = |rule: &Value| {
                Rule::deserialize(rule).map_err(|_| unusable(format!("a rule of {} is unknown", column.name)))
            };
            let rules: Vec<Rule> = column.rules.iter().map(rule).collect::<Result<_, _>>()?;
            Ok(Column {
                name: column.name.clone(),
                taken: format!("{}_taken", column.name),
                takes,
                is_required: column.is_required || rules.iter().any(|rule| matches!(rule, Rule::Required)),
                rules,
            })
        });
        let mut columns: Vec<Column> = columns.collect::<Result<_, Error>>()?;
        let gone = |what: &str| unusable(format!("the column of {what} is gone"));
        let (key, newer) = (table.key().ok_or_else(|| gone("the key"))?, table.newer().ok_or_else(|| gone("newer"))?);
        columns[newer].is_required = true;
        // Nothing would ever be newer than what is in the future.
        columns[newer].rules.push(Rule::NotFuture);
        let is_unique = |index: &usize| columns[*index].rules.iter().any(|rule| matches!(rule, Rule::Unique));
        let unique = (0..columns.len()).filter(|index| *index != key && is_unique(index)).collect();
        let gone = deletes.map(|deletes| deletes.field.as_str());
        let fields = Pointers::new(table.columns.iter().map(|column| column.pointer.as_str()).chain(gone));
        let deletes = deletes.map(|deletes| deletes.is.clone());
        Ok(Self { fields, deletes, item_bytes, columns, key, newer, unique })
    }
}

impl Shape {
    /// How many fields of an item are looked for.
    pub(crate) fn field_count(&self) -> usize {
        self.columns.len() + usize::from(self.deletes.is_some())
    }

    /// Whether this of its fields says that an item is gone.
    pub(crate) fn is_gone(&self, field: Option<&RawValue>) -> bool {
        let (Some(values), Some(field)) = (&self.deletes, field) else { return false };
        if values.is_empty() {
            return !matches!(field.get(), "null" | "false" | "\"\"");
        }
        serde_json::from_str::<Value>(field.get()).is_ok_and(|value| values.contains(&value))
    }

    /// Whether an item may say that it is gone.
    pub(crate) fn has_deletes(&self) -> bool {
        self.deletes.is_some()
    }
}

fn takes(column: &database::ingest::definition::Column) -> Option<Takes> {
    Some(match column.base.as_deref()? {
        "text" | "varchar" => Takes::Text { limit: column.limit },
        "bool" => Takes::Bool,
        "int2" => Takes::Integer { min: i16::MIN.into(), max: i16::MAX.into() },
        "int4" => Takes::Integer { min: i32::MIN.into(), max: i32::MAX.into() },
        "int8" => Takes::Integer { min: i64::MIN, max: i64::MAX },
        "numeric" | "float4" | "float8" => Takes::Number,
        "uuid" => Takes::Uuid,
        "date" => Takes::Date,
        "timestamptz" => Takes::Time,
        "json" | "jsonb" => Takes::Json,
        "enum" => Takes::Label(column.labels.clone()?),
        _ => return None,
    })
}

fn pattern<'de, D: serde::Deserializer<'de>>(json: D) -> Result<Regex, D::Error> {
    Regex::new(&String::deserialize(json)?).map_err(serde::de::Error::custom)
}

impl Column {
    /// The value as PostgreSQL reads it; `None`: there is none, and need not be.
    pub(crate) fn judge<'a>(
        &self,
        field: Option<&'a RawValue>,
        now: OffsetDateTime,
    ) -> Result<Option<Cow<'a, str>>, Refusal> {
        let must = |must| Refusal { reason: None, must };
        let Some(field) = field.filter(|field| field.get() != "null") else {
            return if self.is_required { Err(must("must be given".into())) } else { Ok(None) };
        };
        let value = self.takes.read(field).ok_or_else(|| must(self.takes.must()))?;
        if self.is_required && value.trim().is_empty() {
            return Err(must("must not be empty".into()));
        }
        match self.rules.iter().find(|rule| !rule.is_kept(&value, now)) {
            Some(rule) => {
                let reason = matches!(rule, Rule::NotFuture).then_some("future");
                Err(Refusal { reason, must: rule.must() })
            }
            None => Ok(Some(value)),
        }
    }
}

impl Takes {
    fn read<'a>(&self, field: &'a RawValue) -> Option<Cow<'a, str>> {
        match self {
            Self::Text { limit } => text(field).filter(|text| limit.is_none_or(|limit| text.chars().count() <= limit)),
            Self::Bool => matches!(field.get(), "true" | "false").then(|| field.get().into()),
            Self::Integer { min, max } => {
                let number: i64 = number(field)?.parse().ok()?;
                (*min..=*max).contains(&number).then(|| number.to_string().into())
            }
            Self::Number => number(field),
            // In PostgreSQL's spelling: one may be the key.
            Self::Uuid => text(field).filter(|text| is_uuid(text)).map(|text| text.to_ascii_lowercase().into()),
            Self::Date => text(field).filter(|text| date(text).is_some_and(|date| (1..=9999).contains(&date.year()))),
            Self::Time => time(field).and_then(|at| at.format(&Rfc3339).ok()).map(Cow::from),
            Self::Json => is_storable(field.get()).then(|| field.get().into()),
            Self::Label(labels) => text(field).filter(|text| labels.iter().any(|label| label == text)),
        }
    }

    fn must(&self) -> Cow<'static, str> {
        match self {
            Self::Text { limit: Some(limit) } => format!("must be a text of {limit} characters at most").into(),
            Self::Text { limit: None } => "must be a text without NUL".into(),
            Self::Bool => "must be true or false".into(),
            Self::Integer { min, max } => format!("must be a whole number from {min} to {max}").into(),
            Self::Number => "must be a number".into(),
            Self::Uuid => UUID.into(),
            Self::Date => "must be a date, as in 2026-01-31".into(),
            Self::Time => TIME.into(),
            Self::Json => "must be JSON without NUL and without more than 100 levels".into(),
            Self::Label(labels) => format!("must be one of {}", labels.join(", ")).into(),
        }
    }
}

impl Rule {
    fn is_kept(&self, value: &str, now: OffsetDateTime) -> bool {
        match self {
            Self::Required | Self::Unique => true,
            Self::Email => is_email(value),
            Self::Phone => is_e164(value),
            Self::Uuid => is_uuid(value),
            Self::OneOf(values) => values.iter().any(|one| one == value),
            Self::Range(least, most) => value.parse::<f64>().is_ok_and(|number| {
                least.is_none_or(|least| least <= number) && most.is_none_or(|most| number <= most)
            }),
            Self::Pattern(pattern) => pattern.is_match(value),
            Self::NotFuture => {
                let latest = now + FAR_FUTURE;
                // A date has no time.
                match date(value) {
                    Some(date) => date <= latest.date(),
                    None => OffsetDateTime::parse(value, &Rfc3339).is_ok_and(|at| at <= latest),
                }
            }
        }
    }

    fn must(&self) -> Cow<'static, str> {
        match self {
            Self::Required => "must be given".into(),
            Self::Email => "must be an address, as in name@example.com".into(),
            Self::Phone => "must be a number by E.164, as in +442071838750".into(),
            Self::Uuid => UUID.into(),
            Self::OneOf(values) => format!("must be one of {}", values.join(", ")).into(),
            Self::Range(least, most) => {
                let bound =
                    |word: &str, bound: &Option<f64>| bound.map(|bound| format!(" {word} {bound}")).unwrap_or_default();
                format!("must be a number{}{}", bound("from", least), bound("to", most)).into()
            }
            Self::Pattern(pattern) => format!("must match {pattern}").into(),
            Self::NotFuture => "must not be more than a day from now".into(),
            Self::Unique => "must be nobody else's".into(),
        }
    }
}

const UUID: &str = "must be a UUID, as in 123e4567-e89b-12d3-a456-426614174000";
const TIME: &str = "must be a time by RFC 3339 with its offset, from the year 1 on, as in 2026-01-31T12:00:00Z, or a number of seconds since 1970";

/// A text that PostgreSQL takes: it has no NUL.
fn text(field: &RawValue) -> Option<Cow<'_, str>> {
    let Text(text) = serde_json::from_str(field.get()).ok()?;
    (!text.contains('\0')).then_some(text)
}

/// Borrowed where it can be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A number, or a text that has one: some sources send those so that have many digits.
fn number(field: &RawValue) -> Option<Cow<'_, str>> {
    let text = if field.get().starts_with('"') { text(field)? } else { field.get().into() };
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && text.len() <= NUMBER_BYTES
        && serde_json::from_str::<f64>(&text).is_ok();
    is_number.then_some(text)
}

/// In UTC and in whole microseconds, as PostgreSQL has it: what is equal there is equal here.
fn time(field: &RawValue) -> Option<OffsetDateTime> {
    let at = match number(field) {
        Some(number) => {
            let seconds: f64 = number.parse().ok()?;
            let unit = if seconds.abs() < MILLISECONDS { 1e6 } else { 1e3 };
            #[expect(clippy::cast_possible_truncation, reason = "what is out of range is no time, either")]
            let microseconds = (seconds * unit).round() as i128;
            OffsetDateTime::from_unix_timestamp_nanos(microseconds.checked_mul(1000)?).ok()?
        }
        None => OffsetDateTime::parse(&text(field)?, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)?,
    };
    // What PostgreSQL writes with BC, no index takes.
    if !(1..=9999).contains(&at.year()) {
        return None;
    }
    at.replace_nanosecond(at.nanosecond() / 1000 * 1000).ok()
}

fn date(text: &str) -> Option<Date> {
    Date::parse(text, format_description!("[year]-[month]-[day]")).ok()
}

fn is_uuid(text: &str) -> bool {
    // The crate takes other forms, too.
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

/// Whether a column of `jsonb` takes it.
fn is_storable(json: &str) -> bool {
    fn has_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(values) => values.iter().any(has_nul),
            Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    serde_json::from_str::<Value>(json).is_ok_and(|value| !has_nul(&value))
}

fn is_email(text: &str) -> bool {
    let options = Options::default().with_required_tld().without_domain_literal().without_display_text();
    EmailAddress::parse_with_options(text, options).is_ok()
}

/// `+`, a country code that does not begin with 0, at most 15 digits in all; none that is in use has less than 7.
fn is_e164(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}
