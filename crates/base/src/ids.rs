//! Names of things. Each is its own type so that one cannot stand for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// One process of the cluster; never reused.
    NodeId(u64), "n"
);
id!(
    /// A span of keys that is replicated together.
    RangeId(u64), "r"
);
id!(
    /// A table, view, sequence or index as the catalog names it; also its
    /// PostgreSQL object identifier, so user objects start at 16384.
    TableId(u32), "t"
);
id!(
    /// A stretch of the key space that holds the rows of one table or the
    /// entries of one index. A rewritten or truncated table gets a new one.
    IndexId(u32), "i"
);
id!(
    /// A column's slot in the stored row, counted from 0; never reused within
    /// a table, also after the column is dropped.
    ColumnId(u16), "c"
);
