//! What is a profile, and what is none.

use std::borrow::Cow;

use email_address::{EmailAddress, Options};
use serde::Deserialize;
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, UtcOffset};
use uuid::Uuid;

/// What the columns take, in characters.
const TEXT_CHARS: usize = 255;
/// An origin's clock may be ahead of ours, by another time zone that somebody mistook for UTC at the most.
const FAR_FUTURE: Duration = Duration::days(1);
/// A profile is some hundred bytes.
const PROFILE_BYTES: usize = 64 << 10;

/// A profile of the origin, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile<'a> {
    pub id: Uuid,
    pub name: Cow<'a, str>,
    pub email: Cow<'a, str>,
    pub mobile: Cow<'a, str>,
    pub status: Status,
    /// In UTC, and in whole microseconds, as PostgreSQL has it: what is equal there is equal here.
    pub last_updated_at: OffsetDateTime,
    /// As it came.
    pub payload: &'a str,
}

/// What a profile can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    Pending,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
        }
    }
}

/// What is kept of a profile that is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject<'a> {
    /// `None`: it has none that is valid.
    pub profile_id: Option<Uuid>,
    /// `None`: it has none that is valid.
    pub last_updated_at: Option<OffsetDateTime>,
    pub reason: Reason,
    /// A sentence without personal data.
    pub message: Cow<'static, str>,
    /// JSON.
    pub payload: Cow<'a, str>,
}

/// Why a profile is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotAnObject,
    TooLarge,
    Id,
    Name,
    Email,
    Mobile,
    Status,
    LastUpdatedAt,
    Future,
    EmailTaken,
    MobileTaken,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAnObject => "not_an_object",
            Self::TooLarge => "too_large",
            Self::Id => "id",
            Self::Name => "name",
            Self::Email => "email",
            Self::Mobile => "mobile",
            Self::Status => "status",
            Self::LastUpdatedAt => "last_updated_at",
            Self::Future => "future",
            Self::EmailTaken => "email_taken",
            Self::MobileTaken => "mobile_taken",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::NotAnObject => "this is no JSON object that has each field once",
            Self::TooLarge => "the profile has more than 64 KiB",
            Self::Id => "id must be a UUID, as in 123e4567-e89b-12d3-a456-426614174000",
            Self::Name => "name must be a text of 1 to 255 characters",
            Self::Email => "email must be an address of up to 255 characters, as in name@example.com",
            Self::Mobile => "mobile must be a number by E.164, as in +442071838750",
            Self::Status => "status must be active or pending",
            Self::LastUpdatedAt => {
                "last_updated_at must be a time by RFC 3339 with its offset, from the year 1 on, as in 2026-01-31T12:00:00Z"
            }
            Self::Future => "last_updated_at must not be more than a day from now",
            Self::EmailTaken => "the email belongs to another profile",
            Self::MobileTaken => "the mobile number belongs to another profile",
        }
    }
}

/// Each as it came, to be judged alone. A field that is null counts as absent, one that nobody knows is passed over.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    email: Option<&'a RawValue>,
    #[serde(borrow)]
    mobile: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    last_updated_at: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Profile<'a> {
    /// Judges an element of a page.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(payload: &'a str, now: OffsetDateTime) -> Result<Self, Reject<'a>> {
        let fields = Self::fields(payload);
        let id = fields.as_ref().and_then(|fields| uuid(fields.id));
        let last_updated_at = fields.as_ref().and_then(|fields| time(fields.last_updated_at));
        let is_future = last_updated_at.is_some_and(|at| at > now + FAR_FUTURE);
        // The time of a future one tells nothing: nothing would ever be newer.
        let known_time = last_updated_at.filter(|_| !is_future);
        let reject = |reason| Reject::new(id, known_time, reason, payload);

        if payload.len() > PROFILE_BYTES {
            return Err(reject(Reason::TooLarge));
        }
        let fields = fields.ok_or_else(|| reject(Reason::NotAnObject))?;
        let id = id.ok_or_else(|| reject(Reason::Id))?;
        let name = text(fields.name).filter(|name| !name.trim().is_empty()).ok_or_else(|| reject(Reason::Name))?;
        let email = text(fields.email).filter(|email| is_email(email)).ok_or_else(|| reject(Reason::Email))?;
        let mobile = text(fields.mobile).filter(|mobile| is_e164(mobile)).ok_or_else(|| reject(Reason::Mobile))?;
        let status = fields.status.and_then(|status| serde_json::from_str(status.get()).ok());
        let status = status.ok_or_else(|| reject(Reason::Status))?;
        let last_updated_at = last_updated_at.ok_or_else(|| reject(Reason::LastUpdatedAt))?;
        if is_future {
            return Err(reject(Reason::Future));
        }
        Ok(Self { id, name, email, mobile, status, last_updated_at, payload })
    }

    /// `None`: it is none with each field once.
    fn fields(payload: &str) -> Option<Fields<'_>> {
        // serde takes an array for a struct, too.
        payload.starts_with('{').then(|| serde_json::from_str(payload).ok())?
    }

    /// What it becomes where another has its email or mobile.
    pub fn taken(&self, reason: Reason, by: Uuid) -> Reject<'a> {
        let mut reject = Reject::new(Some(self.id), Some(self.last_updated_at), reason, self.payload);
        reject.message = format!("{}, {by}", reason.message()).into();
        reject
    }
}

impl<'a> Reject<'a> {
    fn new(
        profile_id: Option<Uuid>,
        last_updated_at: Option<OffsetDateTime>,
        reason: Reason,
        payload: &'a str,
    ) -> Self {
        Self { profile_id, last_updated_at, reason, message: reason.message().into(), payload: kept(payload) }
    }
}

/// A payload as it can be kept: what is larger, or nests deeper than anybody would read, becomes a text.
fn kept(payload: &str) -> Cow<'_, str> {
    let is_readable = payload.len() <= PROFILE_BYTES && serde_json::from_str::<serde_json::Value>(payload).is_ok();
    if is_readable {
        return payload.into();
    }
    let cut = &payload[..payload.floor_char_boundary(PROFILE_BYTES)];
    serde_json::Value::from(cut).to_string().into()
}

/// A text that its column takes: PostgreSQL has no NUL.
fn text(field: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let Text(text) = serde_json::from_str(field?.get()).ok()?;
    (!text.contains('\0') && text.chars().count() <= TEXT_CHARS).then_some(text)
}

fn uuid(field: Option<&RawValue>) -> Option<Uuid> {
    let text = text(field)?;
    // The crate takes other forms, too.
    (text.len() == 36).then(|| Uuid::try_parse(&text).ok())?
}

fn time(field: Option<&RawValue>) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::parse(&text(field)?, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)?;
    // What PostgreSQL writes with BC, no index takes.
    if at.year() < 1 {
        return None;
    }
    at.replace_nanosecond(at.nanosecond() / 1000 * 1000).ok()
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

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
