//! The log as its users see it, on a disk that fails.

mod crash;
mod damage;
mod model;
mod semantics;

use std::collections::BTreeMap;

use bytes::Bytes;
use polity_base::RangeId;

use crate::log::{Log, Record, RecoveredGroup};

/// What a log should hold: the same rules, written as plainly as can be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    pub groups: BTreeMap<RangeId, ModelGroup>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ModelGroup {
    pub entries: BTreeMap<u64, (u64, Bytes)>,
    pub purged: Option<u64>,
    pub states: BTreeMap<String, Bytes>,
}

impl Model {
    pub fn apply(&mut self, records: &[Record]) {
        for record in records {
            let group = self.groups.entry(record.group()).or_default();
            match record {
                Record::Entry { index, term, payload, .. } => {
                    group.entries.insert(*index, (*term, payload.clone()));
                }
                Record::Truncate { from_index, .. } => group.entries.retain(|index, _| index < from_index),
                Record::Purge { upto_index, .. } => {
                    group.entries.retain(|index, _| index > upto_index);
                    group.purged = group.purged.max(Some(*upto_index));
                }
                Record::State { name, value, .. } => {
                    group.states.insert(name.clone().into_owned(), value.clone());
                }
            }
        }
        // A group of which nothing is known does not differ from none.
        self.groups.retain(|_, group| *group != ModelGroup::default());
    }

    /// The models after the first 0, 1, … calls.
    pub fn prefixes(calls: &[Vec<Record>]) -> Vec<Model> {
        let mut prefixes = vec![Model::default()];
        for call in calls {
            let mut next = prefixes.last().cloned().unwrap_or_default();
            next.apply(call);
            prefixes.push(next);
        }
        prefixes
    }

    /// What `log` holds, asked through every door it has.
    pub fn of(log: &Log, groups: impl IntoIterator<Item = RangeId>) -> Model {
        let mut model = Model::default();
        for id in groups {
            let read = log.read(id, 0..u64::MAX).unwrap();
            assert_eq!(log.first(id), read.first().map(|e| e.0));
            assert_eq!(log.last(id), read.last().map(|e| (e.0, e.1)));
            let group = ModelGroup {
                entries: read.into_iter().map(|(index, term, payload)| (index, (term, payload))).collect(),
                purged: log.purged(id),
                states: ["vote", "committed", "a"]
                    .iter()
                    .filter_map(|name| Some((name.to_string(), log.state(id, name)?)))
                    .collect(),
            };
            if group != ModelGroup::default() {
                model.groups.insert(id, group);
            }
        }
        model
    }

    pub fn of_recovered(log: &Log, recovered: &[RecoveredGroup]) -> Model {
        let model = Model::of(log, recovered.iter().map(|g| g.group));
        for group in recovered {
            let expected = model.groups.get(&group.group).cloned().unwrap_or_default();
            assert_eq!(group.states, expected.states);
            assert_eq!(group.purged, expected.purged);
            assert_eq!(group.first, expected.entries.keys().next().copied());
            assert_eq!(group.last, expected.entries.iter().next_back().map(|(index, (term, _))| (*index, *term)));
        }
        model
    }
}
