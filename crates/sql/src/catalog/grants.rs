//! Who may do what with a table or a view, besides its owner.
//!
//! As in PostgreSQL: what is made belongs to the role that made it, and nobody else may
//! use it until somebody who owns it, or a superuser, says so by GRANT. The owner and
//! superusers may always do everything. Sequences are open to all: a number says nothing.

use std::fmt;
use std::sync::Arc;

use polity_base::TableId;
use serde::{Deserialize, Serialize};

use super::model::{Catalog, Relation, Role};

/// A set of things that may be done with a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Privileges(u8);

impl Privileges {
    /// To read rows
    pub const SELECT: Privileges = Privileges(1);
    /// To add rows
    pub const INSERT: Privileges = Privileges(2);
    /// To change rows
    pub const UPDATE: Privileges = Privileges(4);
    /// To remove rows
    pub const DELETE: Privileges = Privileges(8);
    /// To remove all rows at once
    pub const TRUNCATE: Privileges = Privileges(16);
    /// To refer to rows by a foreign key
    pub const REFERENCES: Privileges = Privileges(32);
    /// All of it
    pub const ALL: Privileges = Privileges(63);
    /// None of it
    pub const NONE: Privileges = Privileges(0);

    /// Each with its name and the letter PostgreSQL shows for it, in PostgreSQL's order.
    pub const EACH: [(Privileges, &'static str, char); 6] = [
        (Privileges::INSERT, "INSERT", 'a'),
        (Privileges::SELECT, "SELECT", 'r'),
        (Privileges::UPDATE, "UPDATE", 'w'),
        (Privileges::DELETE, "DELETE", 'd'),
        (Privileges::TRUNCATE, "TRUNCATE", 'D'),
        (Privileges::REFERENCES, "REFERENCES", 'x'),
    ];

    /// What is in one of the two.
    pub const fn and(self, other: Privileges) -> Privileges {
        Privileges(self.0 | other.0)
    }

    /// What is in this and not in the other.
    pub fn without(self, other: Privileges) -> Privileges {
        Privileges(self.0 & !other.0)
    }

    /// Whether all of `other` is in it.
    pub fn include(self, other: Privileges) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether something of `other` is in it.
    pub fn overlap(self, other: Privileges) -> bool {
        self.0 & other.0 != 0
    }

    /// The one of this name, in capitals.
    pub fn named(name: &str) -> Option<Privileges> {
        Privileges::EACH.iter().find(|(_, known, _)| *known == name).map(|(one, ..)| *one)
    }

    /// Those in it, in PostgreSQL's order.
    pub fn each(self) -> impl Iterator<Item = &'static (Privileges, &'static str, char)> {
        Privileges::EACH.iter().filter(move |(one, ..)| self.include(*one))
    }
}

impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.each().map(|(_, name, _)| *name).collect();
        f.write_str(&names.join(", "))
    }
}

/// What one role may do with a relation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The role; everybody if none
    pub to: Option<TableId>,
    /// What it may do; never nothing
    pub privileges: Privileges,
}

/// What roles may do with a relation.
pub type Grants = Arc<[Grant]>;

/// The grants that come of giving privileges to some, or taking them away.
pub fn changed(before: &[Grant], to: &[Option<TableId>], privileges: Privileges, gives: bool) -> Vec<Grant> {
    let mut after = before.to_vec();
    for to in to {
        if after.iter().all(|grant| grant.to != *to) {
            after.push(Grant { to: *to, privileges: Privileges::NONE });
        }
        for grant in after.iter_mut().filter(|grant| grant.to == *to) {
            grant.privileges =
                if gives { grant.privileges.and(privileges) } else { grant.privileges.without(privileges) };
        }
    }
    after.retain(|grant| grant.privileges != Privileges::NONE);
    after.sort_by_key(|grant| grant.to);
    after
}

impl Catalog {
    /// What roles other than the owner may do with a relation.
    pub fn grants_on(&self, relation: TableId) -> &[Grant] {
        self.grants.get(&relation).map_or(&[], |grants| &**grants)
    }

    /// What a role may do with a relation of that owner.
    pub fn privileges(&self, role: &Role, relation: TableId, owner: TableId) -> Privileges {
        if role.superuser || role.id == owner {
            return Privileges::ALL;
        }
        let for_it = |grant: &&Grant| grant.to.is_none_or(|to| to == role.id);
        let grants = self.grants_on(relation).iter().filter(for_it);
        grants.fold(Privileges::NONE, |all, grant| all.and(grant.privileges))
    }

    /// What a role of this name may do with a table, a view or what belongs to one: all
    /// of it with what is not either, such as a sequence.
    pub fn privileges_of(&self, user: &str, relation: TableId) -> Privileges {
        let (relation, owner) = match self.relation_by_id(relation) {
            Some(Relation::Table(table) | Relation::Index(table, _)) => (table.id, table.owner),
            Some(Relation::View(view)) => (view.id, view.owner),
            Some(Relation::Sequence(_)) | None => return Privileges::ALL,
        };
        self.roles.get(user).map_or(Privileges::NONE, |role| self.privileges(role, relation, owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_add_up_and_are_taken_away_one_by_one() {
        let (ann, bob) = (Some(TableId(100)), Some(TableId(200)));
        let grants = changed(&[], &[ann, None], Privileges::SELECT.and(Privileges::INSERT), true);
        let grants = changed(&grants, &[ann], Privileges::DELETE, true);
        assert_eq!(grants.len(), 2);
        let less = changed(&grants, &[ann, bob], Privileges::INSERT.and(Privileges::DELETE), false);
        assert_eq!(less[0], Grant { to: None, privileges: Privileges::SELECT.and(Privileges::INSERT) });
        assert_eq!(less[1], Grant { to: ann, privileges: Privileges::SELECT });
        assert_eq!(changed(&less, &[ann, None], Privileges::ALL, false), []);
    }

    #[test]
    fn owners_superusers_and_everybodys_grants_count() {
        let role =
            |id, superuser| Role { id: TableId(id), name: format!("role{id}"), password: None, superuser, login: true };
        let mut catalog = Catalog::default();
        let grants = [
            Grant { to: None, privileges: Privileges::SELECT },
            Grant { to: Some(TableId(2)), privileges: Privileges::INSERT },
        ];
        catalog.grants.insert(TableId(9), grants.into());
        let of = |role: Role| catalog.privileges(&role, TableId(9), TableId(1));
        assert_eq!(of(role(1, false)), Privileges::ALL);
        assert_eq!(of(role(3, true)), Privileges::ALL);
        assert_eq!(of(role(2, false)), Privileges::SELECT.and(Privileges::INSERT));
        assert_eq!(of(role(4, false)), Privileges::SELECT);
    }
}
