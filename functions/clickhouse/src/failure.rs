//! What an answer of ClickHouse that is none of success means.

use clickhouse::error::Error;
use secrets::SecretError;

/// A value that no column of its type can hold, or text that is none of the type. By ClickHouse's codes of errors.
const OF_A_ROW: [u32; 21] = [
    6,   // CANNOT_PARSE_TEXT
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    33,  // CANNOT_READ_ALL_DATA
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    53,  // TYPE_MISMATCH
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    130, // CANNOT_READ_ARRAY_FROM_TEXT
    131, // TOO_LARGE_STRING_SIZE
    190, // SIZES_OF_ARRAYS_DONT_MATCH
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    376, // CANNOT_PARSE_UUID
    407, // DECIMAL_OVERFLOW
    469, // VIOLATED_CONSTRAINT
    691, // UNKNOWN_ELEMENT_OF_ENUM
];
/// It is no table's fault: none could be written to.
const OF_THE_SERVER: [u32; 24] = [
    74,   // CANNOT_READ_FROM_FILE_DESCRIPTOR
    75,   // CANNOT_WRITE_TO_FILE_DESCRIPTOR
    76,   // CANNOT_OPEN_FILE
    81,   // UNKNOWN_DATABASE
    115,  // UNKNOWN_SETTING
    159,  // TIMEOUT_EXCEEDED
    164,  // READONLY
    201,  // QUOTA_EXCEEDED
    202,  // TOO_MANY_SIMULTANEOUS_QUERIES
    209,  // SOCKET_TIMEOUT
    210,  // NETWORK_ERROR
    225,  // NO_ZOOKEEPER
    236,  // ABORTED
    241,  // MEMORY_LIMIT_EXCEEDED
    243,  // NOT_ENOUGH_SPACE
    279,  // ALL_CONNECTION_TRIES_FAILED
    319,  // UNKNOWN_STATUS_OF_INSERT
    394,  // QUERY_WAS_CANCELLED
    425,  // SYSTEM_ERROR
    439,  // CANNOT_SCHEDULE_TASK
    745,  // SERVER_OVERLOADED
    999,  // KEEPER_EXCEPTION
    1000, // POCO_EXCEPTION
    1001, // STD_EXCEPTION
];
/// Whoever asks is not let in.
const OF_CREDENTIALS: [u32; 4] = [
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    194, // REQUIRED_PASSWORD
    516, // AUTHENTICATION_FAILED
];

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The secret cannot be had, or is malformed.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It is there, and cannot be used. None of its values are told.
    #[error("the secret {secret_arn} cannot be used: {problem}")]
    Credentials {
        /// Which.
        secret_arn: String,
        /// What is wrong with it, and what it should be.
        problem: &'static str,
    },
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is the fault of a row's own data: which one of those that were sent, counted from 1, where ClickHouse says so.
    #[error("{reason}")]
    Row {
        /// ClickHouse's words; they may quote data.
        reason: String,
        /// Which row.
        row: Option<usize>,
    },
    /// It is the fault of the table, and of none that is beside it.
    #[error("{0}")]
    Table(String),
    /// The password is refused.
    #[error("ClickHouse refuses the user or the password of its secret: {0}")]
    Refused(String),
    /// It is the fault of none of this: ClickHouse is away, busy, full, or read-only.
    #[error("ClickHouse does not take it: {0}")]
    Server(String),
    /// There is no client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Failure {
    /// What a request failed with.
    pub(crate) fn of(error: Error) -> Self {
        let Error::BadResponse(text) = error else { return Self::Server(describe(&error)) };
        let reason: String = text.trim().chars().take(1000).collect();
        match code(&reason) {
            Some(code) if OF_A_ROW.contains(&code) => Self::Row { row: row(&reason), reason },
            Some(code) if OF_CREDENTIALS.contains(&code) => Self::Refused(reason),
            Some(code) if OF_THE_SERVER.contains(&code) => Self::Server(reason),
            // It is gone, has other columns, or whatever else is wrong with it alone: it holds up no other.
            Some(_) => Self::Table(reason),
            None => Self::Server(reason),
        }
    }
}

/// With what is behind it: a client's error says little itself.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// Of `Code: 27. DB::Exception: …`, or `Code: 27, e.displayText() = …` of older ones.
pub(crate) fn code(text: &str) -> Option<u32> {
    let digits = text.split_once("Code: ")?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

/// Of `… (at row 3)`.
fn row(text: &str) -> Option<usize> {
    let digits = text.rsplit_once("(at row ")?.1;
    digits[..digits.find(')')?].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Failure {
        Failure::of(Error::BadResponse(text.to_owned()))
    }

    #[test]
    fn an_answer_is_the_fault_of_a_row_a_table_a_password_or_of_none_of_them() {
        let row = "Code: 27. DB::ParsingException: Cannot parse input: expected '\"' before: 'x\"}': (at row 3)\n. (CANNOT_PARSE_INPUT_ASSERTION_FAILED)";
        assert!(matches!(of(row), Failure::Row { row: Some(3), .. }));
        let old = "Code: 27, e.displayText() = DB::Exception: Cannot parse input: expected \" before: x: (at row 12)\n, e.what() = DB::Exception";
        assert!(matches!(of(old), Failure::Row { row: Some(12), .. }));
        let without = "Code: 69. DB::Exception: Decimal value is too big. (ARGUMENT_OUT_OF_BOUND)";
        assert!(matches!(of(without), Failure::Row { row: None, .. }));
        for text in [
            "Code: 60. DB::Exception: Table default.x does not exist",
            "Code: 252. DB::Exception: Too many parts",
            "Code: 1. DB::Exception",
        ] {
            assert!(matches!(of(text), Failure::Table(_)), "{text}");
        }
        assert!(matches!(of("Code: 516. DB::Exception: sluice: Authentication failed"), Failure::Refused(_)));
        for text in [
            "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space",
            "Code: 164. DB::Exception: Cannot execute query in readonly mode",
            "Code: 241. DB::Exception: Memory limit (total) exceeded",
            "502 Bad Gateway",
            "",
        ] {
            assert!(matches!(of(text), Failure::Server(_)), "{text}");
        }
        assert!(matches!(Failure::of(Error::TimedOut), Failure::Server(_)));
    }
}
