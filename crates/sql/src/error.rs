//! Errors as PostgreSQL users know them: a condition with its SQLSTATE, what
//! happened, the facts, and the next step.

use std::fmt;

use polity_base::Class;

/// The result of anything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! conditions {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident;)*) => {
        /// A PostgreSQL error condition (PostgreSQL manual, appendix A), or one of
        /// Polity's own in class `PL`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[allow(missing_docs)] // the names are PostgreSQL's
        pub enum Condition { $($(#[$doc])* $name,)* }

        impl Condition {
            /// The five characters of the SQLSTATE.
            pub fn code(self) -> &'static str {
                match self { $(Condition::$name => $code,)* }
            }

            /// What a caller should do about it.
            pub fn class(self) -> Class {
                match self { $(Condition::$name => Class::$class,)* }
            }
        }
    };
}

conditions! {
    ConnectionException = "08000", Input;
    ProtocolViolation = "08P01", Input;
    FeatureNotSupported = "0A000", Input;
    CardinalityViolation = "21000", Input;
    DataException = "22000", Input;
    StringDataRightTruncation = "22001", Input;
    NumericValueOutOfRange = "22003", Input;
    NullValueNotAllowed = "22004", Input;
    InvalidDatetimeFormat = "22007", Input;
    DatetimeFieldOverflow = "22008", Input;
    InvalidTimeZoneDisplacementValue = "22009", Input;
    IntervalFieldOverflow = "22015", Input;
    DivisionByZero = "22012", Input;
    InvalidParameterValue = "22023", Input;
    InvalidRegularExpression = "2201B", Input;
    SequenceGeneratorLimitExceeded = "2200H", Input;
    InvalidTextRepresentation = "22P02", Input;
    InvalidBinaryRepresentation = "22P03", Input;
    BadCopyFileFormat = "22P04", Input;
    CharacterNotInRepertoire = "22021", Input;
    UntranslatableCharacter = "22P05", Input;
    InvalidEscapeSequence = "22025", Input;
    SubstringError = "22011", Input;
    InvalidArgumentForNtile = "22014", Input;
    InvalidArgumentForLogarithm = "2201E", Input;
    InvalidArgumentForPower = "2201F", Input;
    InvalidRowCountInLimit = "2201W", Input;
    InvalidRowCountInOffset = "2201X", Input;
    ArraySubscriptError = "2202E", Input;
    IntegrityConstraintViolation = "23000", Input;
    NotNullViolation = "23502", Input;
    ForeignKeyViolation = "23503", Input;
    UniqueViolation = "23505", Input;
    CheckViolation = "23514", Input;
    InvalidCursorState = "24000", Input;
    InvalidTransactionState = "25000", Input;
    ActiveSqlTransaction = "25001", Input;
    ReadOnlySqlTransaction = "25006", Input;
    NoActiveSqlTransaction = "25P01", Input;
    InFailedSqlTransaction = "25P02", Input;
    IdleInTransactionSessionTimeout = "25P03", Input;
    InvalidSqlStatementName = "26000", Input;
    InvalidAuthorizationSpecification = "28000", Input;
    InvalidPassword = "28P01", Input;
    DependentObjectsStillExist = "2BP01", Input;
    InvalidCursorName = "34000", Input;
    InvalidSavepointSpecification = "3B001", Input;
    InvalidCatalogName = "3D000", Input;
    InvalidSchemaName = "3F000", Input;
    SerializationFailure = "40001", Conflict;
    StatementCompletionUnknown = "40003", Unknown;
    DeadlockDetected = "40P01", Conflict;
    InsufficientPrivilege = "42501", Input;
    SyntaxError = "42601", Input;
    InvalidName = "42602", Input;
    InvalidColumnDefinition = "42611", Input;
    UndefinedColumn = "42703", Input;
    UndefinedObject = "42704", Input;
    DuplicateColumn = "42701", Input;
    AmbiguousColumn = "42702", Input;
    DuplicateAlias = "42712", Input;
    DuplicateObject = "42710", Input;
    DatatypeMismatch = "42804", Input;
    WrongObjectType = "42809", Input;
    GroupingError = "42803", Input;
    InvalidForeignKey = "42830", Input;
    CannotCoerce = "42846", Input;
    UndefinedFunction = "42883", Input;
    AmbiguousFunction = "42725", Input;
    InvalidRecursion = "42P19", Input;
    WindowingError = "42P20", Input;
    UndefinedTable = "42P01", Input;
    UndefinedParameter = "42P02", Input;
    DuplicateCursor = "42P03", Input;
    DuplicatePreparedStatement = "42P05", Input;
    DuplicateTable = "42P07", Input;
    InvalidColumnReference = "42P10", Input;
    InvalidTableDefinition = "42P16", Input;
    GeneratedAlways = "428C9", Input;
    IndeterminateDatatype = "42P18", Input;
    WithCheckOptionViolation = "44000", Input;
    InsufficientResources = "53000", Resource;
    DiskFull = "53100", Resource;
    OutOfMemory = "53200", Resource;
    TooManyConnections = "53300", Resource;
    ConfigurationLimitExceeded = "53400", Resource;
    ProgramLimitExceeded = "54000", Resource;
    StatementTooComplex = "54001", Resource;
    TooManyColumns = "54011", Resource;
    ReservedName = "42939", Input;
    ObjectNotInPrerequisiteState = "55000", Input;
    ObjectInUse = "55006", Input;
    CantChangeRuntimeParam = "55P02", Input;
    LockNotAvailable = "55P03", Conflict;
    QueryCanceled = "57014", Input;
    AdminShutdown = "57P01", Retry;
    CannotConnectNow = "57P03", Retry;
    IdleSessionTimeout = "57P05", Input;
    IoError = "58030", Corrupt;
    InternalError = "XX000", Bug;
    DataCorrupted = "XX001", Corrupt;
    /// No quorum on this side of a partition.
    NoQuorum = "PL001", Unavailable;
    /// The share held here is too small while the total is not.
    ShareTooSmall = "PL002", Conflict;
    /// One transaction writes tables of more than one guarantee.
    MixedGuarantees = "PL003", Input;
}

/// What went wrong, for the person who asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error(Box<Parts>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Parts {
    condition: Condition,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<usize>,
    table: Option<String>,
    column: Option<String>,
    constraint: Option<String>,
}

impl Error {
    /// An error of `condition`; the message says what happened in PostgreSQL's
    /// words where it has any: lower case, no full stop.
    pub fn new(condition: Condition, message: impl Into<String>) -> Error {
        Error(Box::new(Parts {
            condition,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            table: None,
            column: None,
            constraint: None,
        }))
    }

    /// A feature of PostgreSQL that Polity does not have.
    pub fn unsupported(what: impl fmt::Display) -> Error {
        Error::new(Condition::FeatureNotSupported, format!("{what} is not supported"))
    }

    /// A fault in Polity: something that cannot be, is.
    pub fn internal(what: impl fmt::Display) -> Error {
        Error::new(Condition::InternalError, what.to_string())
            .hint("This is a fault in Polity. Please report it with the statement that led here.")
    }

    /// The same with other words for what happened.
    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Error {
        self.0.message = message.into();
        self
    }

    /// Adds the facts: full sentences.
    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the next step: full sentences.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds where in the statement, in characters counted from 1.
    pub fn at(mut self, position: usize) -> Error {
        self.0.position = Some(position);
        self
    }

    /// Names the table concerned.
    pub fn table(mut self, table: impl Into<String>) -> Error {
        self.0.table = Some(table.into());
        self
    }

    /// Names the column concerned.
    pub fn column(mut self, column: impl Into<String>) -> Error {
        self.0.column = Some(column.into());
        self
    }

    /// Names the constraint concerned.
    pub fn constraint(mut self, constraint: impl Into<String>) -> Error {
        self.0.constraint = Some(constraint.into());
        self
    }

    /// The condition.
    pub fn condition(&self) -> Condition {
        self.0.condition
    }

    /// What a caller should do about it.
    pub fn class(&self) -> Class {
        self.0.condition.class()
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The facts, if any.
    pub fn detail_text(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The next step, if any.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in the statement, in characters counted from 1.
    pub fn position(&self) -> Option<usize> {
        self.0.position
    }

    /// The table concerned.
    pub fn table_name(&self) -> Option<&str> {
        self.0.table.as_deref()
    }

    /// The column concerned.
    pub fn column_name(&self) -> Option<&str> {
        self.0.column.as_deref()
    }

    /// The constraint concerned.
    pub fn constraint_name(&self) -> Option<&str> {
        self.0.constraint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.condition.code())?;
        if let Some(detail) = &self.0.detail {
            write!(f, " DETAIL: {detail}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, " HINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
